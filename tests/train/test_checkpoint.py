import errno
import hashlib
import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from torch import Tensor

from rlseg.errors import CheckpointError, DivergenceError
from rlseg.train import checkpoint as module
from rlseg.train.checkpoint import CheckpointStore, load_checkpoint, load_with_fallback
from tests.train.children import run_in_child, same_state


def some_state(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "network": {"weight": torch.randn(40, 25, generator=generator)},
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}},
            "groups": [{"betas": (0.9, 0.99)}],
        },
        "generator": generator.get_state(),
        "half": torch.randn(3, generator=generator).bfloat16(),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 4),
        "turned": torch.randn(4, 3, generator=generator).t(),
        "a.b": torch.ones(1),
        "a": {"b": torch.zeros(1), "$odd": 1},
        "none": None,
        "large": 2**70,
        "undefined": float("nan"),
        "bound": -float("inf"),
        "text": "ä\n",
    }


def save(store: CheckpointStore, step: int, **change: Any) -> Path:
    arguments: dict[str, Any] = {
        "method": "toy",
        "stage": store.folder.name,
        "index": 0,
        "step": step,
        "state": some_state(step),
        "extra": {"position": step},
        "config": {"width": 3},
        "best": False,
    }
    return store.save(**{**arguments, **change})


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "run" / "first")


def reseal(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrites the manifest with a right checksum, as somebody with bad intentions could."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    del manifest["sha256"]
    change(manifest)
    path.write_bytes(module._sealed(manifest))


def replace_file(folder: Path, suffix: str, data: bytes) -> None:
    """Puts other bytes into latest, with size and hash in the manifest to match."""

    def change(manifest: dict[str, Any]) -> None:
        for name, record in manifest["latest"]["files"].items():
            if name.endswith(suffix):
                (folder / name).write_bytes(data)
                record.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())

    reseal(folder, change)


def test_round_trip_keeps_types_and_bits(store: CheckpointStore) -> None:
    state = some_state()
    save(store, 7, state=state)
    found = store.load("latest")
    assert (found.method, found.stage, found.step) == ("toy", "first", 7)
    assert found.config == {"width": 3}
    assert found.extra == {"position": 7}
    assert same_state(found.state, state)
    assert isinstance(found.state["optimizer"]["groups"][0]["betas"], tuple)
    assert list(found.state["optimizer"]["state"]) == [0]
    assert found.state["large"] == 2**70
    assert str(found.state["undefined"]) == "nan"
    assert found.state["bound"] == -float("inf")
    assert found.state["half"].dtype == torch.bfloat16
    assert found.state["turned"].shape == (3, 4)


def test_entries(store: CheckpointStore) -> None:
    for step in range(1, 11):
        save(store, step, best=step == 4)
    steps = {which: store.load(which).step for which in ("latest", "previous", "best")}
    assert steps == {"latest": 10, "previous": 9, "best": 4}
    # Ten saves keep bounded disk: three checkpoints of two files, and two manifests.
    assert len(list(store.folder.iterdir())) == 8


def test_best_is_latest_where_nothing_was_monitored(store: CheckpointStore) -> None:
    save(store, 1)
    assert store.load("best").step == 1
    with pytest.raises(CheckpointError, match="previous"):
        store.load("previous")


def test_second_save_of_a_step_does_not_touch_the_first(store: CheckpointStore) -> None:
    first = save(store, 5)
    second = save(store, 5, extra={"position": 50})
    assert first != second
    assert store.load("previous").extra == {"position": 5}
    assert store.load("latest").extra == {"position": 50}


def test_paths_resolve(store: CheckpointStore) -> None:
    save(store, 1)
    save(store, 2, best=True)
    save(store, 3)
    other = CheckpointStore(store.folder.parent / "another")  # first by name, second in the run
    save(other, 9, index=1)
    run = store.folder.parent
    assert load_checkpoint(run).step == 9
    assert load_checkpoint(store.folder).step == 2
    assert load_checkpoint(store.folder, "latest").step == 3
    assert load_checkpoint(store.folder / "step-2.json").step == 2
    assert load_checkpoint(store.folder / "step-3.safetensors").step == 3
    for path in (run / "missing", run.parent):
        with pytest.raises(CheckpointError, match="no checkpoint"):
            load_checkpoint(path)
    with pytest.raises(CheckpointError, match="must be one of"):
        load_checkpoint(run, "newest")


class DyingStream:
    """Writes to a file and kills its own process after so many bytes of a whole save."""

    left = 0

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")

    def write(self, data: bytes | memoryview) -> None:
        plain = bytes(data)
        if len(plain) >= DyingStream.left:
            self.file.write(plain[: DyingStream.left])
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        DyingStream.left -= len(plain)
        self.file.write(plain)

    def __enter__(self) -> "DyingStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:
        return self.file.fileno()


def check_after_kill(folder: Path, committed: set[int]) -> None:
    """What was committed loads; the next save works and leaves nothing behind."""
    store = CheckpointStore(folder)
    found = store.load("latest")
    assert found.step in committed
    assert same_state(found.state, some_state(found.step))
    save(store, 9)
    assert store.load("latest").step == 9
    assert store.load("previous").step == found.step
    assert not [p for p in folder.iterdir() if p.suffix == ".tmp"]


def test_fault_c1_killed_at_every_4_kb(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 1)
    save(store, 2)
    written: list[int] = []
    plain_write = module.write

    def counting(stream: BinaryIO, chunks: Any) -> Any:
        record = plain_write(stream, chunks)
        written.append(record.size)
        return record

    monkeypatch.setattr(module, "write", counting)
    rehearsal = tmp_path / "rehearsal" / "first"
    shutil.copytree(store.folder, rehearsal)
    save(CheckpointStore(rehearsal), 3)
    monkeypatch.setattr(module, "write", plain_write)
    total = sum(written)
    assert total > 3 * 4096
    monkeypatch.setattr(module, "open_stream", DyingStream)
    for k in [*range(0, total, 4096), *(total - 1 - back for back in range(0, 2000, 400))]:
        folder = tmp_path / f"kill{k}" / "first"
        shutil.copytree(store.folder, folder)

        def die(folder: Path = folder, k: int = k) -> None:
            DyingStream.left = k + 1
            save(CheckpointStore(folder), 3)

        assert run_in_child(die) == -signal.SIGKILL
        with monkeypatch.context() as undo:
            undo.setattr(module, "open_stream", lambda path: path.open("wb"))
            check_after_kill(folder, {2, 3})


def test_fault_c1_killed_between_every_two_steps_of_the_protocol(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 1)
    save(store, 2)
    plain = module.before_commit
    for k in range(12):  # 4 files x (fsync, rename, fsync of the folder)
        folder = tmp_path / f"kill{k}" / "first"
        shutil.copytree(store.folder, folder)

        def die(folder: Path = folder, k: int = k) -> None:
            calls: list[str] = []

            def hook(action: str, path: Path) -> None:
                if len(calls) == k:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls.append(action)

            module.before_commit = hook
            save(CheckpointStore(folder), 3)

        assert run_in_child(die) == -signal.SIGKILL
        assert module.before_commit is plain
        # The third file is the manifest; from its rename on the new checkpoint counts.
        check_after_kill(folder, {2} if k <= 7 else {3})


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_fault_c2_disk_full_keeps_the_old_checkpoint(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    save(store, 1)

    def full(stream: BinaryIO, chunks: Any) -> Any:
        stream.write(b"x" * 100)
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(module, "write", full)
        with pytest.raises(CheckpointError, match=r"cannot save step 2.*resume") as caught:
            save(store, 2)
    assert isinstance(caught.value.__cause__, OSError)
    assert store.load("latest").step == 1
    assert not list(store.folder.glob("*.tmp"))
    save(store, 2)
    assert store.load("latest").step == 2


def test_fault_c3_one_flipped_bit_anywhere(store: CheckpointStore) -> None:
    save(store, 1)
    save(store, 2)
    latest = ["step-2.safetensors", "step-2.json", "manifest.json"]
    for name in latest:
        path = store.folder / name
        good = path.read_bytes()
        places = {0, len(good) - 1, *range(5, len(good), 4096 if "tensors" in name else 97)}
        for place in sorted(places):
            damaged = bytearray(good)
            damaged[place] ^= 1 << (place % 8)
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=r"damaged|format"):
                load_checkpoint(store.folder / "step-2.json")
            notes: list[str] = []
            expected = 2 if name == "manifest.json" else 1
            assert load_with_fallback(CheckpointStore(store.folder), notes.append).step == expected
            assert len(notes) == 1
        path.write_bytes(good)
    assert load_checkpoint(store.folder).step == 2


def test_fault_c3_after_a_fallback_the_good_one_is_kept(store: CheckpointStore) -> None:
    save(store, 1)
    save(store, 2)
    (store.folder / "step-2.json").write_bytes(b"{}")
    again = CheckpointStore(store.folder)
    assert load_with_fallback(again, lambda _: None).step == 1
    save(again, 2)
    assert again.load("latest").step == 2
    assert again.load("previous").step == 1


def test_fault_c4_malformed_files(store: CheckpointStore) -> None:
    save(store, 1)
    tensors = next(store.folder.glob("*.safetensors")).read_bytes()
    text = next(store.folder.glob("step-*.json")).read_bytes()
    bad_tensors = [
        b"",
        b"1234567",
        tensors[: len(tensors) // 2],
        (2**60).to_bytes(8, "little") + tensors[8:],
        (2**24 + 8).to_bytes(8, "little") + b" " * (2**24 + 8),
        tensors[:8] + b"[" * 1000 + tensors[1008:],
    ]
    for data in bad_tensors:
        replace_file(store.folder, ".safetensors", data)
        with pytest.raises(CheckpointError, match="safetensors"):
            store.load("latest")
    replace_file(store.folder, ".safetensors", tensors)
    bad_texts = [
        b"[" * 200_000,
        b'{"a": ' * 5000 + b"1" + b"}" * 5000,
        b'{"format": ' + b"1" * 5000 + b"}",
        text.replace(b'"step": 1', b'"step": NaN'),
        text.replace(b'"step": 1', b'"step": 1, "step": 1'),
        text.replace(b'"step": 1', b'"stop": 1'),
        text.replace(b'"$tuple"', b'"$tensor"'),
        text.replace(b'"$tensor": "learner.half"', b'"$tensor": "learner.flags"'),
        b"\xff\xfe",
        b"[]",
    ]
    for data in bad_texts:
        assert data != text
        replace_file(store.folder, ".json", data)
        with pytest.raises(CheckpointError):
            store.load("latest")
    replace_file(store.folder, ".json", text)
    assert store.load("latest").step == 1


def test_fault_c4_manifest(store: CheckpointStore, tmp_path: Path) -> None:
    path = save(store, 1)
    manifest = (store.folder / "manifest.json").read_bytes()
    (store.folder / "manifest-copy.json").unlink()
    outside = tmp_path / "x.json"
    shutil.copy(path, outside)

    def rename(to: str) -> Callable[[dict[str, Any]], None]:
        def change(content: dict[str, Any]) -> None:
            files = content["latest"]["files"]
            files[to] = files.pop("step-1.json")

        return change

    for name in ("../../x.json", str(outside), "absent.json"):
        reseal(store.folder, rename(name))
        with pytest.raises(CheckpointError, match=r"outside|cannot read"):
            store.load("latest")
        (store.folder / "manifest.json").write_bytes(manifest)
    reseal(store.folder, lambda content: content.update(latest=3))
    with pytest.raises(CheckpointError, match="malformed"):
        store.load("latest")
    (store.folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        load_checkpoint(path)


class Payload:
    """Pickled, it runs a command when unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.canary}",))


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_fault_c5_nothing_is_unpickled(store: CheckpointStore, tmp_path: Path, suffix: str) -> None:
    save(store, 1)
    canary = tmp_path / "canary"
    torch.save({"x": Payload(canary)}, tmp_path / "zip.pt")
    for data in (pickle.dumps(Payload(canary)), (tmp_path / "zip.pt").read_bytes()):
        replace_file(store.folder, suffix, data)
        with pytest.raises(CheckpointError):
            store.load("latest")
        (store.folder / "manifest-copy.json").write_bytes(data)
        with pytest.raises(CheckpointError):
            load_with_fallback(store, lambda _: None)
    assert not canary.exists()


def test_fault_c6_newer_format(store: CheckpointStore) -> None:
    save(store, 1)
    reseal(store.folder, lambda content: content.update(format=99))
    with pytest.raises(CheckpointError, match=r"format 99.*up to 1.*update"):
        store.load("latest")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_fault_c10_bad_weights_are_never_saved(store: CheckpointStore, value: float) -> None:
    save(store, 1, best=True)
    state = some_state()
    state["network"]["weight"][3, 4] = value
    with pytest.raises(DivergenceError, match=r"network\.weight"):
        save(store, 2, state=state)
    assert store.load("latest").step == 1


@pytest.mark.parametrize(
    "value", [{1, 2}, b"bytes", Path("x"), torch.zeros(2, dtype=torch.complex64), lambda: 0]
)
def test_what_cannot_be_kept_exactly_is_refused(store: CheckpointStore, value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"learner\.deep\.0"):
        save(store, 1, state={"deep": [value]})
    assert not store.exists()


def test_shared_and_sliced_tensors_are_kept(store: CheckpointStore) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state: dict[str, Tensor] = {"base": base, "column": base[:, 1], "same": base}
    save(store, 1, state=state)
    assert same_state(store.load("latest").state, state)


def test_fuzz_manifest_and_state(store: CheckpointStore) -> None:
    save(store, 1)
    generator = torch.Generator().manual_seed(0)
    for name in ("manifest.json", "step-1.json"):
        path = store.folder / name
        good = path.read_bytes()
        for _ in range(120):
            data = bytearray(good)
            for place in torch.randint(len(data), (3,), generator=generator).tolist():
                data[place] = int(torch.randint(256, (), generator=generator))
            if name == "manifest.json":
                path.write_bytes(data)
            else:
                replace_file(store.folder, ".json", bytes(data))
            try:
                store.load("latest")
            except CheckpointError:
                continue
        path.write_bytes(good)
