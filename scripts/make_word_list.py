"""Make src/clipos_lightning/assets/wordnet.txt.xz: nouns and adjectives of WordNet 3.0 for mined negative words.

    apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb wordnet      # Debian's copy of WordNet 3.0
    python scripts/make_word_list.py wordnet/usr/share/wordnet

The argument is a folder with WordNet's `data.noun` and `data.adj` (format: wndb(5WN)). Of each synset the first word is
taken, in lower case, with spaces. Left out are the lexicographer files noun.person, noun.quantity, noun.group and
adj.pert. The list has a word per line: nouns, an empty line, adjectives, both sorted. WordNet's licence is in
`assets/WORDNET_LICENSE.txt`, taken from the head of `data.noun`.
"""

import argparse
import lzma
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

ASSETS = Path(__file__).parents[1] / "src/clipos_lightning/assets"
LEFT_OUT = {"noun": {14, 18, 23}, "adj": {1}}  # numbers of lexicographer files: group, person, quantity; pert
MARKER = re.compile(r"\((a|p|ip)\)$")  # where an adjective may stand in a sentence
NOTICE = (
    "# Words of WordNet 3.0, Copyright 2006 by Princeton University. All rights reserved. See WORDNET_LICENSE.txt.\n"
    "# Made by scripts/make_word_list.py: nouns, an empty line, adjectives.\n"
)


def read_synsets(text: str) -> Iterator[tuple[int, str]]:
    """The lexicographer file's number and the first word of each synset of a data file; its licence is skipped."""
    for line in text.splitlines():
        if not line.startswith("  "):
            _, file, _, _, word, *_ = line.split(" ")
            yield int(file), word


def first_words(text: str, left_out: set[int]) -> list[str]:
    """The different first words of the synsets outside of some lexicographer files, sorted."""
    words = (word for file, word in read_synsets(text) if file not in left_out)
    return sorted({MARKER.sub("", word).replace("_", " ").lower() for word in words})


def read_licence(text: str) -> str:
    """The licence at the head of a data file, without line numbers."""
    lines = [line for line in text.splitlines() if line.startswith("  ")]
    return "\n".join(re.sub(r"^ +\d+ ?", "", line).rstrip() for line in lines).strip() + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the list and the licence, and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wordnet", type=Path, help="folder with data.noun and data.adj")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder to write to")
    options = parser.parse_args(arguments)
    texts = {kind: (options.wordnet / f"data.{kind}").read_text(encoding="utf-8") for kind in LEFT_OUT}
    lists = {kind: first_words(text, LEFT_OUT[kind]) for kind, text in texts.items()}
    content = NOTICE + "\n\n".join("\n".join(words) for words in lists.values()) + "\n"
    packed = lzma.compress(content.encode(), preset=9 | lzma.PRESET_EXTREME)
    (options.out / "wordnet.txt.xz").write_bytes(packed)
    (options.out / "WORDNET_LICENSE.txt").write_text(read_licence(texts["noun"]), encoding="utf-8")
    print(
        *(f"{len(words):,} words of data.{kind}" for kind, words in lists.items()), f"{len(packed):,} bytes", sep=", "
    )


if __name__ == "__main__":
    main()
