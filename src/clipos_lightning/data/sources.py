"""Download metadata of the data sets: files, checksums, counts, licences. Unknown values are None."""

from dataclasses import dataclass
from pathlib import Path

CIFAR_SITE = "https://www.cs.toronto.edu/~kriz"
PLACES365 = "http://data.csail.mit.edu/places/places365"


@dataclass(frozen=True)
class File:
    """A file to download.

    Attributes:
        name: file name.
        url: its address; None if it cannot be downloaded by a program.
        md5: MD5 as hexadecimal; None if unknown: not verified.
        size: in bytes; None if unknown.
        folder: folder below the data root to which the file is downloaded, and in which it is unpacked.
        parts: files and folders that unpacking creates in ``folder``; empty: the file itself is the data.
    """

    name: str
    url: str | None
    md5: str | None
    size: int | None = None
    folder: str = ""
    parts: tuple[str, ...] = ()

    def path(self, root: Path) -> Path:
        """Path of the downloaded file."""
        return root / self.folder / self.name

    def is_present(self, root: Path) -> bool:
        """Whether its data exist below the root; ``clipos data verify`` checks whether they are complete."""
        return all((root / self.folder / part).exists() for part in self.parts or (self.name,))


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        title: name in the literature.
        files: the files to download.
        image_paths: where the images are, below the data root: folders, CIFAR's batches, or one file.
        images: number of images in ``image_paths``.
        licence: one line.
        home: address of its web page.
        paper: the publication to cite.
        kind: format of ``image_paths``: folder, cifar, mat or npz.
        note: what to know before comparing numbers.
        manual_steps: how to obtain it if it cannot be downloaded; ``{root}`` stands for the data root.
    """

    title: str
    files: tuple[File, ...]
    image_paths: tuple[str, ...]
    images: int
    licence: str
    home: str
    paper: str
    kind: str = "folder"
    note: str = ""
    manual_steps: str = ""

    @property
    def size(self) -> int | None:
        """Bytes to download; None if the size of a file is unknown."""
        sizes = [file.size for file in self.files if file.size is not None]
        return sum(sizes) if len(sizes) == len(self.files) else None

    @property
    def created_paths(self) -> list[str]:
        """Paths below the data root that downloading and unpacking create."""
        return [(Path(file.folder) / part).as_posix() for file in self.files for part in file.parts or (file.name,)]

    @property
    def fetchable(self) -> bool:
        """Whether all files can be downloaded."""
        return all(file.url for file in self.files)

    def state(self, root: Path) -> str:
        """Whether the set exists below the root: ``yes``, ``partly`` or ``no``."""
        found = [(root / path).exists() for path in self.image_paths]
        begun = any(found) or any(file.path(root).exists() for file in self.files)
        return "yes" if all(found) else "partly" if begun else "no"


LSUN = "LSUN (Yu et al. 2015)"
RESEARCH_ONLY = "non-commercial research and education only (its terms of access)"
ID_LIKE = "Contains ID-like images: objects of ImageNet's classes (Bitterwolf et al. 2023, arXiv:2306.00826)."


def cifar_source(classes: int, md5: str, size: int, folder: str, batches: tuple[str, ...], note: str) -> Source:
    """CIFAR-10 or CIFAR-100, as the pickled batches of its authors."""
    file = f"cifar-{classes}-python.tar.gz"
    return Source(
        title=f"CIFAR-{classes}",
        files=(File(name=file, url=f"{CIFAR_SITE}/{file}", md5=md5, size=size, parts=(folder,)),),
        image_paths=tuple(f"{folder}/{batch}" for batch in batches),
        images=60_000,
        licence="none stated by its authors",
        home=f"{CIFAR_SITE}/cifar.html",
        paper="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        kind="cifar",
        note=f"32 px; 50,000 for training, 10,000 for testing. {note}",
    )


def odin_source(title: str, name: str, dropbox: str, md5: str, images: int, note: str, origin: str = LSUN) -> Source:
    """An OOD set published with ODIN."""
    file = f"{name}.tar.gz"
    return Source(
        title=title,
        files=(File(name=file, url=f"https://www.dropbox.com/s/{dropbox}/{file}?dl=1", md5=md5, parts=(name,)),),
        image_paths=(name,),
        images=images,
        licence=f"none stated for the archive; images from {origin}",
        home="https://github.com/facebookresearch/odin",
        paper="as an OOD set: Liang et al. 2018, arXiv:1706.02690 (ODIN)",
        note=note,
    )


def mos_source(title: str, name: str, md5: str, note: str, licence: str = "none stated for the subset") -> Source:
    """A subset of a larger set that MOS selected as OOD set for ImageNet-1k."""
    file = f"{name}.tar.gz"
    url = f"http://pages.cs.wisc.edu/~huangrui/imagenet_ood_dataset/{file}"
    return Source(
        title=title,
        files=(File(name=file, url=url, md5=md5, parts=(name,)),),
        image_paths=(name,),
        images=10_000,
        licence=licence,
        home="https://github.com/deeplearning-wisc/large_scale_ood",
        paper="Huang and Li 2021, arXiv:2105.01879 (MOS)",
        note=note,
    )


SOURCES: dict[str, Source] = {
    "cifar10": cifar_source(
        classes=10,
        md5="c58f30108f718f92721af3b95e74349a",
        size=170_498_071,
        folder="cifar-10-batches-py",
        batches=("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"),
        note="Near OOD for CIFAR-100.",
    ),
    "cifar100": cifar_source(
        classes=100,
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        size=169_001_437,
        folder="cifar-100-python",
        batches=("train", "test"),
        note="Near OOD for CIFAR-10 (pickup truck, wolf, …).",
    ),
    "textures": Source(
        title="Textures (DTD)",
        files=(
            File(
                name="dtd-r1.0.1.tar.gz",
                url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
                md5="fff73e5086ae6bdbea199a49dfb8a4c1",
                size=625_239_812,
                folder="dtd",
                parts=("dtd",),
            ),
        ),
        image_paths=("dtd/dtd/images",),
        images=5_640,
        licence="for research purposes (its page)",
        home="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        paper="Cimpoi et al. 2014, arXiv:1311.3618",
        note="All three splits. Contains ID-like images: objects of ImageNet's classes.",
    ),
    "svhn": Source(
        title="SVHN, test split",
        files=(
            File(
                name="test_32x32.mat",
                url="http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
                md5="eb5a983be6a315427106f1b164d9cef3",
                size=64_275_384,
                folder="svhn",
            ),
        ),
        image_paths=("svhn/test_32x32.mat",),
        images=26_032,
        licence="non-commercial use only (its page)",
        home="http://ufldl.stanford.edu/housenumbers/",
        paper="Netzer et al. 2011, Reading Digits in Natural Images with Unsupervised Feature Learning",
        kind="mat",
        note="32 px. A MATLAB file.",
    ),
    "places365": Source(
        title="Places365, validation, 256 px",
        files=(
            File(
                name="val_256.tar",
                url=f"{PLACES365}/val_256.tar",
                md5="e27b17d8d44f4af9a78502beb927f808",
                folder="places365",
                parts=("val_256",),
            ),
            File(
                name="filelist_places365-standard.tar",
                url=f"{PLACES365}/filelist_places365-standard.tar",
                md5="35a0585fee1fa656440f3ab298f8479c",
                folder="places365",
                parts=("places365_val.txt", "categories_places365.txt"),
            ),
        ),
        image_paths=("places365/val_256",),
        images=36_500,
        licence=RESEARCH_ONLY,
        home="http://places2.csail.mit.edu/",
        paper="Zhou et al. 2017, Places: A 10 Million Image Database for Scene Recognition",
        note="The literature uses an unpublished selection of 10,000. Contains ID-like images: cars, ships, animals.",
    ),
    "lsun_crop": odin_source(
        title="LSUN-Crop",
        name="LSUN",
        dropbox="fhtsw1m3qxlwj6h",
        md5="458a0a0ab8e5f1cb4516d7400568e460",
        images=10_000,
        note="Random crops of LSUN's test scenes.",
    ),
    "lsun_resize": odin_source(
        title="LSUN-Resize",
        name="LSUN_resize",
        dropbox="moqh2wh8696c3yl",
        md5="278b7b31c8cb7e804a1465a8ce03a2dc",
        images=10_000,
        note="Scaled down to 32 px with artefacts that make it an easy OOD set (Tack et al. 2020, arXiv:2007.08176).",
    ),
    "isun": odin_source(
        title="iSUN",
        name="iSUN",
        dropbox="ssz7qxfqae0cca5",
        md5="be77b0f2c26fda898afac5f99645ee70",
        images=8_925,
        origin="SUN, selected by iSUN (Xu et al. 2015, arXiv:1504.06755)",
        note="Scenes scaled down to 32 px, like LSUN-Resize.",
    ),
    "inaturalist": mos_source(
        title="iNaturalist (MOS)",
        name="iNaturalist",
        md5="5be6ea8aa027d7b631916427b32cb335",
        licence="none stated for the subset; each photograph has its own",
        note="110 plant species that are not in ImageNet-1k.",
    ),
    "sun": mos_source("SUN (MOS)", "SUN", md5="8469c3ada62211477954ec1be53b12d0", note=f"Scenes. {ID_LIKE}"),
    "places": mos_source("Places (MOS)", "Places", md5="b5cb5eba2754ae2a28beea8718db699a", note=f"Scenes. {ID_LIKE}"),
    "tiny_imagenet": Source(
        title="Tiny-ImageNet",
        files=(
            File(
                name="tiny-imagenet-200.zip",
                url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                md5="90528d7ca1a48142e341f4ef8d21d0de",
                size=248_100_043,
                parts=("tiny-imagenet-200",),
            ),
        ),
        image_paths=("tiny-imagenet-200",),
        images=120_000,
        licence=RESEARCH_ONLY,
        home="http://cs231n.stanford.edu/",
        paper="Le and Yang 2015, Tiny ImageNet Visual Recognition Challenge",
        note="64 px; 100,000 train, 10,000 val, 10,000 test. Shares classes with CIFAR-10 and -100: ID-like images.",
    ),
    "imagenet": Source(
        title="ImageNet-1k (ILSVRC 2012)",
        files=(
            File(
                name="ILSVRC2012_img_train.tar",
                url=None,
                md5="1d675b47d978889d74fa0da5fadfb00e",
                size=147_897_477_120,
                folder="imagenet",
                parts=("train",),
            ),
            File(
                name="ILSVRC2012_img_val.tar",
                url=None,
                md5="29b22e2961454d5413ddabcf34fc5622",
                size=6_744_924_160,
                folder="imagenet",
                parts=("val",),
            ),
        ),
        image_paths=("imagenet/train", "imagenet/val"),
        images=1_331_167,
        licence=RESEARCH_ONLY,
        home="https://image-net.org/challenges/LSVRC/2012/",
        paper="Russakovsky et al. 2015, arXiv:1409.0575",
        note="1,281,167 for training, 50,000 for validation, in folders by WordNet id. ImageNet-100 is a subset.",
        manual_steps="log in at https://image-net.org, accept its terms, put ILSVRC2012_img_train.tar, "
        "ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz into {root}/imagenet, and let "
        "torchvision.datasets.ImageNet('{root}/imagenet', split) unpack them for 'train' and 'val', so that "
        "{root}/imagenet/train/n01440764/*.JPEG and {root}/imagenet/val/n01440764/*.JPEG exist",
    ),
    "eurosat": Source(
        title="EuroSAT (RGB)",
        files=(
            File(
                name="EuroSAT.zip",
                url="https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
                "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                md5="c8fa014336c82ac7804f0398fcb19387",
                folder="eurosat",
                parts=("2750",),
            ),
        ),
        image_paths=("eurosat/2750",),
        images=27_000,
        licence="MIT; images: Copernicus Sentinel-2 data",
        home="https://github.com/phelber/EuroSAT",
        paper="Helber et al. 2019, arXiv:1709.00029",
        note="64 px, 10 classes of land use in satellite images; no official split.",
    ),
    "medmnist": Source(
        title="BloodMNIST (MedMNIST v2)",
        files=(
            File(
                name="bloodmnist.npz",
                url="https://zenodo.org/records/10519652/files/bloodmnist.npz?download=1",
                md5="7053d0359d879ad8a5505303e11de1dc",
                folder="medmnist",
            ),
        ),
        image_paths=("medmnist/bloodmnist.npz",),
        images=17_092,
        licence="CC BY 4.0",
        home="https://medmnist.com/",
        paper="Yang et al. 2023, arXiv:2110.14795",
        kind="npz",
        note="28 px, 8 types of blood cells; 11,959 train, 1,712 val, 3,421 test.",
    ),
}
