import subprocess
import sys

import pytest

from rlseg.data import DATASETS, check_dataset, dataset_module, open_dataset
from rlseg.errors import ConfigError

OUTSIDE = """
from dataclasses import dataclass
from rlseg.data.base import Splits, digest_of

@dataclass(frozen=True, kw_only=True)
class Options:
    count: int = 1

class Toy:
    layout, splits, classes, citation, how_to_get, terms = "", ("train",), (), "", "", ""

DATASET = Toy
needs_root = False

def check(root, options, advance=None):
    return []

def open_splits(root, options):
    parts = {"train": list(range(options.count))}
    return Splits(dataset="toy", task="instance", ndim=2, channels=1, parts=parts,
                  digest=digest_of(options.count))
"""


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_declares_itself(name):
    module = dataset_module(name)
    about = module.DATASET
    for text in (about.layout, about.citation, about.how_to_get, about.terms):
        assert len(text) > 5
    assert "train" in about.splits
    assert isinstance(about.classes, tuple)
    assert isinstance(module.needs_root, bool)
    module.Options()


def test_unknown_names_get_the_nearest_ones():
    with pytest.raises(ConfigError, match=r"'crem'.*cremi"):
        open_dataset("crem", None)
    with pytest.raises(ConfigError, match=", ".join(DATASETS)):
        open_dataset("zzzz", None)
    with pytest.raises(ConfigError, match="unknown data set"):
        open_dataset("", None)


def test_unknown_options_get_the_nearest_ones():
    with pytest.raises(ConfigError, match=r"sise.*'size'"):
        open_dataset("cells", None, {"sise": 32})
    with pytest.raises(ConfigError, match="size"):
        open_dataset("cells", None, {"size": "big"})


def test_an_import_path_is_a_name(tmp_path, monkeypatch):
    package = tmp_path / "outside_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "toy.py").write_text(OUTSIDE)
    (package / "empty.py").touch()
    (package / "broken.py").write_text("import a_module_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    splits = open_dataset("outside_package.toy", None, {"count": 4})
    assert len(splits.split("train")) == 4
    assert check_dataset("outside_package.toy", None) == []
    with pytest.raises(ConfigError, match=r"lacks Options, open_splits, check, DATASET"):
        open_dataset("outside_package.empty", None)
    with pytest.raises(ConfigError, match="needs 'a_module_that_is_not_there'"):
        open_dataset("outside_package.broken", None)
    with pytest.raises(ConfigError, match="unknown data set"):
        open_dataset("outside_package.absent", None)


def test_a_split_that_is_not_there():
    with pytest.raises(ConfigError, match="no split 'val'; it has train, valid, tune, test"):
        open_dataset("cells", None).split("val")


def test_the_table_loads_no_torch():
    code = "import sys, rlseg.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
