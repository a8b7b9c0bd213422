"""What lesson 11 asks: docs/teaching-form.md says how this file is used."""

import hashlib
import io
import tarfile
from collections.abc import Iterator

from vmcontainer_kernel import lab
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.paths import cache_dir
from vmcontainer_kernel.teaching import Exercise, Fact, Question

SECRET = b"swordfish"
RIGHT = hashlib.sha256(SECRET + b"\n").hexdigest().encode()


def written_by_ghost() -> dict[str, str]:
    """Return what is in the upper folder of the container ghost: path and mark."""
    containers = lab.node(lab.default_node).image("postcard:1")["containers"]
    rows = [row for one in containers if one["name"] == "ghost" for row in one["changes"]["rows"]]
    return {row["path"]: row["mark"] for row in rows}


def blobs() -> Iterator[bytes]:
    """Give all blobs of the image clean:1, its layers last and from the lowest up."""
    store = Store(cache_dir("images"))
    image = store.resolve("clean:1")
    for one in (*store.documents(image), *image.layers):
        yield store.blob_path(one.digest).read_bytes()


def proof() -> bytes:
    """Return what the image has as /app/proof."""
    found = b""
    for data in [*blobs()][2:]:
        with tarfile.open(fileobj=io.BytesIO(data)) as layer:
            for member in layer:
                file = layer.extractfile(member) if member.name.removeprefix("./") == "app/proof" else None
                found = file.read() if file else found
    return found


PREDICTIONS = (
    Question(
        id="layers",
        asks="The recipe has four lines. How many layers will the image have?",
        choices=("4: one for each line", "3: that of busybox, and one for each `RUN`", "1: all in one"),
        right=2,
    ),
    Question(
        id="key",
        asks="Is the password still somewhere in the archive?",
        choices=(
            "no: the file was deleted when the image was built",
            "only as a name, without what was in it",
            "yes: in the layer that was made before it was deleted",
        ),
        right=3,
    ),
    Question(
        id="writes",
        asks="Kim has changed `/app/text`, Lee has deleted it. What does a new container of the same image read there?",
        choices=("`hello from Kim`", "`hello`", "nothing: the file is gone"),
        right=2,
    ),
    Question(
        id="forgery",
        asks="Which of the three forgeries will be refused?",
        choices=("the careless one only", "the careless and the careful one", "all three"),
        right=2,
    ),
    Question(
        id="kernels",
        asks="Built twice, on two kernels: will the digest be the same?",
        choices=(
            "yes: to the last bit",
            "no: the layers of the two `RUN`s differ, as another kernel wrote them",
            "no: the times of the builds differ",
        ),
        right=1,
    ),
)

EXERCISES = (
    Exercise(
        id="ghost",
        asks=(
            "Make a container named `ghost` of the image `postcard:1` in which there is no `/bin/vi`, though the image "
            "has it. Nothing else in it may be changed."
        ),
        facts=(
            Fact("nothing was written in a container `ghost` of `postcard:1`", lambda: bool(written_by_ghost())),
            Fact("`ghost` has no whiteout for `/bin/vi`", lambda: written_by_ghost().get("/bin/vi") == "whiteout"),
            Fact("`ghost` has changed something else too", lambda: set(written_by_ghost()) == {"/bin", "/bin/vi"}),
        ),
        hints=(
            "The image cannot be changed, so the change is the container's.",
            "What the upper folder needs is a whiteout. The kernel makes it when a file from below is deleted.",
            "Name a container with `--image postcard:1`, and in it remove the file.",
        ),
        solution="%%container ghost --image postcard:1\nrm /bin/vi",
    ),
    Exercise(
        id="clean",
        asks=(
            "Build an image `clean:1` in which `/app/proof` holds what `echo swordfish | sha256sum` prints. A `RUN` "
            "may use the password, but the word must be in no blob of the image: not in a layer, not in the history."
        ),
        facts=(
            Fact("there is no `/app/proof` in an image `clean:1`", lambda: proof() != b""),
            Fact("`/app/proof` is not what `echo swordfish | sha256sum` prints", lambda: proof().startswith(RIGHT)),
            Fact("the word is still in a blob of the image", lambda: not any(SECRET in data for data in blobs())),
        ),
        hints=(
            "A `RUN` leaves its files in a layer, and its words in the history, of the image in which it ran. "
            "So let it run in another image.",
            "A Dockerfile may have several `FROM`s. Only the last one begins the image that you get; a name is given "
            "to an earlier one by `FROM busybox AS maker`.",
            "`COPY --from=maker /app/proof /app/proof` fetches one file out of the other image.",
        ),
        solution=(
            "%%container build -t clean:1 -q\n"
            "FROM busybox AS maker\n"
            "RUN mkdir /app && echo swordfish | sha256sum > /app/proof\n"
            "FROM busybox\n"
            "COPY --from=maker /app/proof /app/proof"
        ),
    ),
)

QUIZ = (
    Question(
        id="latest",
        asks="Yesterday you ran `web:latest`, today you run it again. Do you run the same bytes?",
        choices=(
            "yes: images are immutable",
            "perhaps: the name may mean another digest today",
            "no: each start makes a new image",
        ),
        right=2,
        why="A digest means the same bytes for ever. A name is a pointer, and its owner may move it.",
    ),
    Question(
        id="remove",
        asks="You remove a container. What is gone?",
        choices=("the image", "the layers that no other container uses", "its upper folder, with all it has written"),
        right=3,
        why="The layers belong to the image. What must outlive a container belongs into a volume, or into a new image.",
    ),
    Question(
        id="setting",
        asks="You build an image anew and change nothing but `CMD`. Which digests change?",
        choices=(
            "all of them",
            "those of the configuration and of the manifest",
            "that of the last layer, and that of the manifest",
        ),
        right=2,
        why="`CMD` is a setting. The manifest names the configuration by its digest, so it changes too; layers do not.",
    ),
    Question(
        id="size",
        asks="A `RUN` deletes 500 MB that an earlier `RUN` has written. How much smaller does the image get?",
        choices=("by 500 MB", "not at all: it gets a little larger", "by 500 MB, when it is packed again"),
        right=2,
        why="A whiteout is added, and the lower layer stays. Write and delete in one `RUN`, or use two stages.",
    ),
)

NOTES = (
    "About 25 minutes with both exercises; the second one takes longest. Whoever is in a hurry leaves out "
    "*One copy in memory* and *Why two lists of digests?*",
    "Students ask: could two files not have the same SHA-256? They could, but nobody has ever found two, and to look "
    "for them at random takes about 2 to the power of 128 attempts.",
    "Students ask: then why does my Docker build give another digest each time? Because of the times: of the build in "
    "the configuration, and of each file in the layers. Let them set `SOURCE_DATE_EPOCH`, and "
    "`rewrite-timestamp=true` for the output, and compare.",
    "Students ask: is the password safe in an `ARG` or an `ENV`? No: `ENV` is in the configuration, and an `ARG` that "
    "a `RUN` uses is in the history. A stage that is thrown away, or a file mounted for one step, keeps it out.",
    "If `other` takes long, its template is being made; that happens once.",
)
