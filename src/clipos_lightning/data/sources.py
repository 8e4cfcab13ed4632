"""Where each data set comes from: files, checksums, counts, licences. What is not known for certain is None."""

from dataclasses import dataclass
from pathlib import Path

KRIZ = "https://www.cs.toronto.edu/~kriz"
PLACES365 = "http://data.csail.mit.edu/places/places365"


@dataclass(frozen=True)
class File:
    """A file to fetch, and where it goes.

    Attributes:
        name: the file's own name.
        url: where it is fetched; None: it cannot be fetched by a program.
        md5: its checksum; None: not known for certain, so not checked.
        size: in bytes; None: not known for certain.
        folder: below the data root; the file goes there, and is unpacked there.
        parts: what unpacking leaves in the folder; none: the file itself is the data.
    """

    name: str
    url: str | None
    md5: str | None
    size: int | None = None
    folder: str = ""
    parts: tuple[str, ...] = ()

    def path(self, root: Path) -> Path:
        """Where the file goes."""
        return root / self.folder / self.name

    def there(self, root: Path) -> bool:
        """What it brings is there (not whether it is whole: ``clipos data verify`` reads it)."""
        return all((root / self.folder / part).exists() for part in self.parts or (self.name,))


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        title: its name in the literature.
        files: what is fetched.
        holds: paths of its images below the data root: folders, CIFAR's batches, or one file.
        images: how many there are, over all of ``holds``.
        licence: in a line.
        home: its page.
        paper: who made it.
        kind: how ``holds`` is read: folder, cifar, mat, npz.
        note: what a user of its numbers should know.
        by_hand: how to obtain it, where it cannot be fetched.
    """

    title: str
    files: tuple[File, ...]
    holds: tuple[str, ...]
    images: int
    licence: str
    home: str
    paper: str
    kind: str = "folder"
    note: str = ""
    by_hand: str = ""

    @property
    def size(self) -> int | None:
        """Bytes to fetch; None where one file's is not known."""
        sizes = [file.size for file in self.files if file.size is not None]
        return sum(sizes) if len(sizes) == len(self.files) else None

    @property
    def made(self) -> list[str]:
        """What its files bring, as paths below the data root."""
        return [(Path(file.folder) / part).as_posix() for file in self.files for part in file.parts or (file.name,)]

    @property
    def fetchable(self) -> bool:
        """Every file has an address."""
        return all(file.url for file in self.files)

    def state(self, root: Path) -> str:
        """``yes``, ``partly`` or ``no``: whether it stands below the root."""
        found = [(root / path).exists() for path in self.holds]
        begun = any(found) or any(file.path(root).exists() for file in self.files)
        return "yes" if all(found) else "partly" if begun else "no"


RESEARCH = "non-commercial research and education only (its terms of access)"
ID_LIKE = "Contains ID-like images: objects of ImageNet's classes (Bitterwolf et al. 2023, arXiv:2306.00826)."


def cifar_source(classes: int, md5: str, size: int, folder: str, batches: tuple[str, ...], note: str) -> Source:
    """CIFAR-10 or CIFAR-100, as its authors' python batches."""
    file = f"cifar-{classes}-python.tar.gz"
    return Source(
        title=f"CIFAR-{classes}",
        files=(File(name=file, url=f"{KRIZ}/{file}", md5=md5, size=size, parts=(folder,)),),
        holds=tuple(f"{folder}/{batch}" for batch in batches),
        images=60_000,
        licence="none stated by its authors",
        home=f"{KRIZ}/cifar.html",
        paper="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        kind="cifar",
        note=f"32 px; 50,000 for training, 10,000 for testing. {note}",
    )


def odin(title: str, name: str, dropbox: str, md5: str, images: int, origin: str, note: str) -> Source:
    """One of the sets that ODIN's authors published."""
    file = f"{name}.tar.gz"
    return Source(
        title=title,
        files=(File(name=file, url=f"https://www.dropbox.com/s/{dropbox}/{file}?dl=1", md5=md5, parts=(name,)),),
        holds=(name,),
        images=images,
        licence=f"none stated for the archive; pictures from {origin}",
        home="https://github.com/facebookresearch/odin",
        paper="as an OOD set: Liang et al. 2018, arXiv:1706.02690 (ODIN)",
        note=note,
    )


def mos(title: str, name: str, md5: str, licence: str, note: str) -> Source:
    """One of the subsets that MOS's authors drew as OOD sets for ImageNet-1k."""
    file = f"{name}.tar.gz"
    url = f"http://pages.cs.wisc.edu/~huangrui/imagenet_ood_dataset/{file}"
    return Source(
        title=title,
        files=(File(name=file, url=url, md5=md5, parts=(name,)),),
        holds=(name,),
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
        note="As OOD set of CIFAR-100: near.",
    ),
    "cifar100": cifar_source(
        classes=100,
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        size=169_001_437,
        folder="cifar-100-python",
        batches=("train", "test"),
        note="As OOD set of CIFAR-10: near (pickup truck, wolf, …).",
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
        holds=("dtd/dtd/images",),
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
        holds=("svhn/test_32x32.mat",),
        images=26_032,
        licence="non-commercial use only (its page)",
        home="http://ufldl.stanford.edu/housenumbers/",
        paper="Netzer et al. 2011, Reading Digits in Natural Images with Unsupervised Feature Learning",
        kind="mat",
        note="32 px. A MATLAB file: reading it takes scipy, the extra `svhn`.",
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
        holds=("places365/val_256",),
        images=36_500,
        licence=RESEARCH,
        home="http://places2.csail.mit.edu/",
        paper="Zhou et al. 2017, Places: A 10 Million Image Database for Scene Recognition",
        note="The literature draws 10,000 of it, unpublished. Contains ID-like images: cars, ships, animals.",
    ),
    "lsun_crop": odin(
        title="LSUN-Crop",
        name="LSUN",
        dropbox="fhtsw1m3qxlwj6h",
        md5="458a0a0ab8e5f1cb4516d7400568e460",
        images=10_000,
        origin="LSUN (Yu et al. 2015)",
        note="Random crops of LSUN's test scenes.",
    ),
    "lsun_resize": odin(
        title="LSUN-Resize",
        name="LSUN_resize",
        dropbox="moqh2wh8696c3yl",
        md5="278b7b31c8cb7e804a1465a8ce03a2dc",
        images=10_000,
        origin="LSUN (Yu et al. 2015)",
        note="Scaled down to 32 px with artefacts that make it an easy OOD set (Tack et al. 2020, arXiv:2007.08176).",
    ),
    "isun": odin(
        title="iSUN",
        name="iSUN",
        dropbox="ssz7qxfqae0cca5",
        md5="be77b0f2c26fda898afac5f99645ee70",
        images=8_925,
        origin="SUN, iSUN's choice (Xu et al. 2015, arXiv:1504.06755)",
        note="Scenes scaled down to 32 px, as LSUN-Resize's.",
    ),
    "inaturalist": mos(
        title="iNaturalist (MOS)",
        name="iNaturalist",
        md5="5be6ea8aa027d7b631916427b32cb335",
        licence="none stated for the subset; each photograph has its owner's",
        note="Plants of 110 kinds that ImageNet-1k does not have.",
    ),
    "sun": mos(
        title="SUN (MOS)",
        name="SUN",
        md5="8469c3ada62211477954ec1be53b12d0",
        licence="none stated for the subset",
        note=f"Scenes. {ID_LIKE}",
    ),
    "places": mos(
        title="Places (MOS)",
        name="Places",
        md5="b5cb5eba2754ae2a28beea8718db699a",
        licence="none stated for the subset",
        note=f"Scenes. {ID_LIKE}",
    ),
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
        holds=("tiny-imagenet-200",),
        images=120_000,
        licence=RESEARCH,
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
        holds=("imagenet/train", "imagenet/val"),
        images=1_331_167,
        licence=RESEARCH,
        home="https://image-net.org/challenges/LSVRC/2012/",
        paper="Russakovsky et al. 2015, arXiv:1409.0575",
        note="1,281,167 for training, 50,000 for validation, in folders by WordNet id. ImageNet-100 is a part of it.",
        by_hand="log in at https://image-net.org, accept its terms, put ILSVRC2012_img_train.tar, "
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
        holds=("eurosat/2750",),
        images=27_000,
        licence="MIT; pictures: Copernicus Sentinel-2 data",
        home="https://github.com/phelber/EuroSAT",
        paper="Helber et al. 2019, arXiv:1709.00029",
        note="64 px, 10 classes of land use seen from orbit; it has no split of its own.",
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
        holds=("medmnist/bloodmnist.npz",),
        images=17_092,
        licence="CC BY 4.0",
        home="https://medmnist.com/",
        paper="Yang et al. 2023, arXiv:2110.14795",
        kind="npz",
        note="28 px, 8 kinds of blood cells; 11,959 train, 1,712 val, 3,421 test.",
    ),
}
