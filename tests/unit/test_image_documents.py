"""Index, manifest and configuration with one thing wrong in them: an `ImageError`, whatever it is."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_container_images import image_of, tar
from vmcontainer_kernel.container.images import Image, Store, documents, shelf
from vmcontainer_kernel.errors import ImageError, NotFound

calmly = settings(derandomize=True, deadline=None, max_examples=250)
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(
        ["sha256:" + "0" * 64, "sha256:" + "A" * 64, "sha512:00", "sha256:../../x", *documents.INDEX_TYPES]
    ),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["digest", "size", "manifests", "x"]), st.integers(), max_size=2),
)
KINDS = ["index", "manifest", "config"]


@pytest.fixture(scope="module")
def whole() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder, "store"))
        image_of(store, tar(("a", {})))
        config = {
            "created": "2020-01-01T00:00:00Z",
            "config": {"Cmd": ["sh"], "Env": ["A=b"], "User": "1", "WorkingDir": "/", "Labels": {"a": "b"}},
            "history": [{"created_by": "a cell"}, {"empty_layer": True}],
            "rootfs": {"type": "layers", "diff_ids": list(store.resolve("x").diff_ids)},
        }
        store.add("x:latest", config, list(store.resolve("x").layers))
        shelf.prune(store)
        yield store.path


def used(store: Store) -> Image | None:
    """Do all that reads documents; what is wrong in them is an ImageError, or an image that is not there."""
    found: Image | None = None
    for work in (
        store.names,
        lambda: store.rootfs_layers(store.resolve("x")),
        lambda: [shelf.list_images(store), shelf.history(store, "x"), shelf.inspect(store, "x")],
        lambda: shelf.tag(store, "x", "y"),
        lambda: shelf.prune(store),
        lambda: shelf.remove(store, "x"),
    ):
        try:
            found = found or (store.resolve("x") if store.names() else None)
            work()
        except (ImageError, NotFound) as error:
            assert error.message
    return found


def places(node: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [way, *(place for key, value in below for place in places(value, (*way, key)))]


def changed(document: Any, data: st.DataObject) -> Any:
    """Put something else at one place, or take it away."""
    way = data.draw(st.sampled_from(places(document)))
    value = data.draw(odd)
    if not way:
        return value
    document = node = copy.deepcopy(document)
    for key in way[:-1]:
        node = node[key]
    if data.draw(st.booleans()):
        node[way[-1]] = value
    else:
        del node[way[-1]]
    return document


def rewritten(store: Store, kind: str, change: Any) -> None:
    """Change one document and let those above it name what it became, as whoever made the image could."""
    index = json.loads((store.path / "index.json").read_bytes())
    manifest = store.read_json(index["manifests"][0]["digest"])
    if kind == "config":
        config = change(store.read_json(manifest["config"]["digest"]))
        manifest["config"] = documents.descriptor(store.put(json.dumps(config).encode(), documents.CONFIG_TYPE))
    if kind == "manifest":
        manifest = change(manifest)
    blob = store.put(json.dumps(manifest).encode(), documents.MANIFEST_TYPE)
    index["manifests"][0] |= documents.descriptor(blob)
    (store.path / "index.json").write_text(json.dumps(change(index) if kind == "index" else index))


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_with_one_thing_wrong(whole: Path, kind: str) -> None:
    @calmly
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        shutil.rmtree(whole.parent / "copy", ignore_errors=True)
        shutil.copytree(whole, whole.parent / "copy")
        store = Store(whole.parent / "copy")
        rewritten(store, kind, lambda document: changed(document, data))
        if image := used(store):
            assert isinstance(image.config.get("config") or {}, dict)

    check()


@calmly
@given(at=st.integers(0, 10**6), byte=st.integers(0, 255), length=st.integers(0, 20))
def test_an_index_with_noise_in_it(whole: Path, at: int, byte: int, length: int) -> None:
    shutil.rmtree(whole.parent / "copy", ignore_errors=True)
    shutil.copytree(whole, whole.parent / "copy")
    path = whole.parent / "copy/index.json"
    data = path.read_bytes()
    at %= len(data)
    path.write_bytes(data[:at] + bytes([byte]) * length + data[at + 1 :])
    used(Store(path.parent))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "\ud800", '{"manifests":[{}]}'])
def test_an_index_that_is_far_from_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    for work in (Store(tmp_path).names, lambda: Store(tmp_path).resolve("x")):
        with pytest.raises(ImageError, match=r"index\.json|descriptor"):
            work()


def test_indexes_of_indexes_end(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "store")
    store = Store(tmp_path / "store")
    image = store.resolve("x")
    blob = documents.blob_of(store.index()[0])
    platform = {"architecture": documents.ARCHITECTURES.get(os.uname().machine), "os": "linux"}
    for depth in range(6):
        index = {"schemaVersion": 2, "manifests": [documents.descriptor(blob) | {"platform": platform}]}
        blob = store.put(documents.canonical(index), documents.INDEX_TYPES[0])
        with store.locked():
            store.write_index([documents.descriptor(blob) | {"annotations": {documents.REF_NAME: "x:latest"}}])
        if depth < 3:
            assert store.resolve("x") == image
        else:
            with pytest.raises(ImageError, match="index of an index"):
                store.resolve("x")
