import pytest
import torch

from rlseg.data.samples import InstanceSample, collate_instances
from rlseg.data.seeds import named_generator
from rlseg.data.stream import CountStream, EpochStream, unchanged
from rlseg.data.transforms import TrainingTransform
from rlseg.errors import CheckpointError, ConfigError, CorruptDatasetError, DatasetNotFoundError


class Numbers:
    """Sample k is a 2x2 image of k / 255."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return InstanceSample(
            image=torch.full((1, 2, 2), index / 255),
            labels=torch.ones(2, 2, dtype=torch.int64),
            valid=torch.ones(2, 2, dtype=torch.bool),
            name=str(index),
        )


def jitter(sample, generator):
    noise = torch.rand(sample.image.shape, generator=generator)
    return InstanceSample(
        image=sample.image + noise, labels=sample.labels, valid=sample.valid, name=sample.name
    )


def stream(count, batch_size, **options):
    options = {"transform": unchanged, "seed": 3} | options
    return EpochStream(Numbers(count), batch_size=batch_size, collate=collate_instances, **options)


def test_every_sample_once_per_epoch_and_a_new_order_each():
    source = stream(12, 4)
    epochs = [[n for _ in range(3) for n in next(source).names] for _ in range(3)]
    for names in epochs:
        assert sorted(map(int, names)) == list(range(12))
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != sorted(epochs[0], key=int)


def test_the_rest_of_an_epoch_is_dropped():
    source = stream(10, 4)
    names = [next(source).names for _ in range(4)]
    assert len({n for b in names[:2] for n in b}) == 8
    assert len({n for b in names[2:] for n in b}) == 8
    assert source.state_dict() == {"epoch": 1, "position": 8}


def test_fault_m3_a_batch_larger_than_the_data_strings_epochs_together():
    source = stream(3, 8, transform=jitter)
    names = [n for _ in range(3) for n in next(source).names]
    for k in range(0, 24, 3):
        assert sorted(names[k : k + 3]) == ["0", "1", "2"]
    batch = next(source)
    same = [batch.image[k] for k, n in enumerate(batch.names) if n == batch.names[0]]
    assert not torch.equal(same[0], same[1])
    one = stream(1, 4)
    assert next(one).names == ("0",) * 4
    assert one.state_dict() == {"epoch": 4, "position": 0}


def test_fewer_samples_than_ranks():
    names = [next(stream(1, 1, rank=r, world_size=3)).names for r in range(3)]
    assert names == [("0",)] * 3


@pytest.mark.parametrize(("count", "size"), [(12, 4), (10, 4), (3, 8)])
@pytest.mark.parametrize("stop", [0, 1, 2, 5])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_resume_continues_bit_for_bit(count, size, stop, prefetch):
    whole = stream(count, size, transform=jitter)
    expected = [next(whole) for _ in range(stop + 4)][stop:]
    first = stream(count, size, transform=jitter, prefetch=prefetch)
    for _ in range(stop):
        next(first)
    state = first.state_dict()
    assert all(type(v) is int for v in state.values())
    resumed = stream(count, size, transform=jitter, prefetch=prefetch)
    next(resumed)
    resumed.load_state_dict(state)
    for batch in expected:
        again = next(resumed)
        assert again.names == batch.names
        assert torch.equal(again.image, batch.image)
    first.close()
    resumed.close()


def test_ranks_share_out_the_batch_of_one_process():
    alone = stream(13, 6, transform=jitter)
    ranks = [stream(13, 2, transform=jitter, rank=r, world_size=3) for r in range(3)]
    for _ in range(7):
        joined = next(alone)
        parts = [next(r) for r in ranks]
        assert joined.names == tuple(n for p in parts for n in p.names)
        assert torch.equal(joined.image, torch.cat([p.image for p in parts]))
        assert len({tuple(r.state_dict().items()) for r in ranks}) == 1


def test_names_and_seeds_draw_differently():
    def order(**options):
        return next(stream(50, 50, **options)).names

    assert order() == order()
    assert len({order(), order(name="other"), order(seed=4)}) == 3


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"rank": 2, "world_size": 2}, {"world_size": 0}, {"prefetch": -1}],
)
def test_sizes_out_of_range(wrong):
    with pytest.raises(ConfigError, match="batch_size >= 1"):
        stream(**({"count": 4, "batch_size": 2} | wrong))


def test_fault_m3_empty_data():
    with pytest.raises(DatasetNotFoundError, match="no samples"):
        stream(0, 2)


@pytest.mark.parametrize(
    "state", [{}, {"epoch": 0}, {"epoch": 0, "position": 99}, {"epoch": -1, "position": 0}]
)
def test_states_that_do_not_fit(state):
    with pytest.raises(CheckpointError):
        stream(4, 2).load_state_dict(state)


def test_errors_in_threads_reach_the_caller():
    class Broken(Numbers):
        def __getitem__(self, index):
            raise ConfigError(f"sample {index}")

    source = EpochStream(
        Broken(4),
        batch_size=2,
        transform=unchanged,
        collate=collate_instances,
        seed=0,
        prefetch=1,
    )
    with pytest.raises(ConfigError, match="sample"):
        next(source)
    source.close()


def test_count_stream():
    source = CountStream()
    assert [next(source) for _ in range(3)] == [0, 1, 2]
    other = CountStream()
    other.load_state_dict(source.state_dict())
    assert next(other) == 3
    with pytest.raises(CheckpointError):
        other.load_state_dict({"count": -1})


def test_named_generators():
    def draw(*name):
        return torch.rand(4, generator=named_generator(*name)).tolist()

    assert draw(0, "a", 1) == draw(0, "a", 1)
    different = [
        draw(0, "a", 1),
        draw(1, "a", 1),
        draw(0, "a1"),
        draw(0, "a", "1"),
        draw(0, 1, "a"),
    ]
    assert len({tuple(d) for d in different}) == 5


# Damaged samples


class Damaged(Numbers):
    """Numbers of which some cannot be read."""

    def __init__(self, count, bad):
        super().__init__(count)
        self.bad = set(bad)

    def __getitem__(self, index):
        if index in self.bad:
            raise CorruptDatasetError(f"{index}.png: cut off at byte 7; replace the file")
        return super().__getitem__(index)


def damaged_stream(count, bad, batch_size=10, **options):
    options = {"transform": jitter, "seed": 3, "on_bad_sample": "skip"} | options
    return EpochStream(
        Damaged(count, bad), batch_size=batch_size, collate=collate_instances, **options
    )


def take(source, count):
    return [next(source) for _ in range(count)]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_fault_i2_a_damaged_sample_fails_by_default(prefetch):
    source = damaged_stream(200, [17], on_bad_sample="fail", prefetch=prefetch)
    with pytest.raises(CorruptDatasetError, match=r"^17\.png: cut off"):
        take(source, 20)
    source.close()
    assert source.scalars() == {}
    assert set(source.state_dict()) == {"epoch", "position"}


def test_fault_i2_skipped_samples_are_replaced_counted_and_logged(caplog):
    source = damaged_stream(200, [17, 18])
    sound = stream(200, 10, transform=jitter)
    seen, counts, replaced = [], [], {}
    for _ in range(40):
        batch, expected = next(source), next(sound)
        seen += batch.names
        counts.append(source.scalars()["data/skipped"])
        for k, name in enumerate(expected.names):
            if name in ("17", "18"):
                replaced[name] = batch.names[k]
            else:
                assert batch.names[k] == name
                assert torch.equal(batch.image[k], expected.image[k])
    assert replaced == {"17": "19", "18": "19"}
    assert not {"17", "18"} & set(seen)
    assert counts[-1] == 2
    assert counts == sorted(counts)
    assert len([r for r in caplog.records if "skipped" in r.message]) == 2
    assert "17.png" in caplog.text


def test_fault_i2_never_more_than_one_percent():
    for prefetch in (0, 1):
        source = damaged_stream(200, [3, 90, 150], prefetch=prefetch)
        with pytest.raises(CorruptDatasetError, match=r"3 of 200 samples are damaged.*1% at most"):
            take(source, 20)
        source.close()
    with pytest.raises(CorruptDatasetError, match="1 of 99 samples"):
        take(damaged_stream(99, [5], batch_size=9), 11)
    fine = damaged_stream(100, [5])
    take(fine, 20)
    assert fine.scalars() == {"data/skipped": 1.0}


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("stop", [1, 7, 15])
def test_fault_i2_the_counter_resumes_exactly(stop, prefetch):
    bad = [3, 120]
    whole = damaged_stream(200, bad)
    expected = [(next(whole).image, whole.scalars()) for _ in range(stop + 15)][stop:]
    first = damaged_stream(200, bad, prefetch=prefetch)
    for _ in range(stop):
        next(first)
    resumed = damaged_stream(200, bad, prefetch=prefetch)
    resumed.load_state_dict(first.state_dict())
    for image, scalars in expected:
        assert torch.equal(next(resumed).image, image)
        assert resumed.scalars() == scalars
    first.close()
    resumed.close()


def test_fault_i8_a_file_that_vanished_is_never_skipped():
    class Vanished(Numbers):
        def __getitem__(self, index):
            raise DatasetNotFoundError(f"{index}.png: no such file")

    source = EpochStream(
        Vanished(500),
        batch_size=2,
        transform=unchanged,
        collate=collate_instances,
        seed=0,
        on_bad_sample="skip",
    )
    with pytest.raises(DatasetNotFoundError, match="no such file"):
        next(source)


def test_fault_m3_one_sample_fewer_than_ranks_or_batch_never_hangs():
    for count, size, ranks in ((1, 1, 1), (1, 7, 1), (2, 1, 5), (3, 4, 3)):
        sources = [stream(count, size, rank=r, world_size=ranks) for r in range(ranks)]
        for _ in range(5):
            batches = [next(source) for source in sources]
            assert all(len(batch.names) == size for batch in batches)


def test_fault_l9_samples_without_instances_stream():
    class Empty(Numbers):
        def __getitem__(self, index):
            labels = torch.zeros(24, 24, dtype=torch.int64)
            return InstanceSample(
                image=torch.zeros(1, 24, 24), labels=labels, valid=labels == 0, name=str(index)
            )

    source = EpochStream(
        Empty(3),
        batch_size=2,
        transform=TrainingTransform("gray_2d", (16, 16)),
        collate=collate_instances,
        seed=0,
    )
    assert not next(source).labels.any()
