"""Generated scenes: seeded, versioned, no download. One module per kind; here those of `cells`."""

from rlseg.data.synthetic.cells import DATASET as DATASET
from rlseg.data.synthetic.cells import MIN_VISIBLE as MIN_VISIBLE
from rlseg.data.synthetic.cells import VERSION as VERSION
from rlseg.data.synthetic.cells import Cells, Options, check, draw_cells, open_splits
from rlseg.data.synthetic.cells import needs_root as needs_root

__all__ = ["Cells", "Options", "check", "draw_cells", "open_splits"]
