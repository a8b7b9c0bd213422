"""What lesson 17 asks: docs/teaching-form.md says how this file is used."""

from vmcontainer_kernel import lab
from vmcontainer_kernel.teaching import Exercise, Fact, Question


def replicas(image: str = "") -> list[str]:
    """Return the replicas of the service that are running, of one image or of all."""
    rows = lab.node(lab.default_node).view()["containers"]
    found = [one for one in rows if one["name"].startswith("shop-") and one["status"] == "running"]
    return [one["name"] for one in found if not image or one["image"] == image]


def asked(names: list[str]) -> bool:
    """Tell whether each of them has had a request through its published port."""
    ways = {way["container"]: way for way in lab.node(lab.default_node).network()["paths"]}
    counts = [sum(port["conversations"] for port in ways[name]["published"]) for name in names]
    return bool(counts) and all(counts)


PREDICTIONS = (
    Question(
        id="curve",
        asks="One container after another is started, and all stay. What will the time for the next one do?",
        choices=(
            "it doubles with each ten: the kernel has more and more to look after",
            "it stays about the same",
            "it falls to nearly nothing: the first one has done all the work",
        ),
        right=2,
    ),
    Question(
        id="digest",
        asks="The same Dockerfile is built twice, the second time without the cache. Are the two digests equal?",
        choices=("yes", "no: each build is another one", "only as long as the label is the same"),
        right=1,
    ),
    Question(
        id="drain",
        asks="A request takes three seconds. Meanwhile its container is stopped, or killed. Who gets an answer?",
        choices=("both users", "only the user of the stopped one", "only the user of the killed one", "neither"),
        right=2,
    ),
    Question(
        id="careless",
        asks="One of two replicas is killed; a second later a new one is started, and then the balancer is told. What "
        "do users notice?",
        choices=("nothing", "some requests fail", "all requests fail"),
        right=2,
    ),
    Question(
        id="bad",
        asks="Version 3 has a typing error, version 4 works in the test only. What will users see?",
        choices=(
            "version 2 only",
            "version 2, and for a moment version 4",
            "for a moment no answer",
        ),
        right=1,
    ),
)

EXERCISES = (
    Exercise(
        id="scale",
        asks="It is the day of the sale. Bring the service to four replicas that all serve.",
        facts=(
            Fact("fewer than four replicas `shop-N` are running", lambda: len(replicas()) >= 4),
            Fact("not every replica has had a request", lambda: asked(replicas())),
        ),
        hints=(
            "A replica that is not in the balancer's table gets no requests: use the function that does both.",
            "`join(release['1'])`, as often as it takes.",
            "Then somebody must ask: `with Clients(): time.sleep(3)`.",
        ),
        solution='while len(balancer.ports) < 4:\n    join(release["1"])\nwith Clients():\n    time.sleep(3)',
    ),
    Exercise(
        id="canary",
        asks="Let version 2 into service as a canary: one replica of `shop:2` beside those of `shop:1`, and let it be "
        "asked at least once.",
        facts=(
            Fact("no replica is of `shop:2`", lambda: len(replicas("shop:2")) > 0),
            Fact("more than one is: that is no canary any more", lambda: len(replicas("shop:2")) == 1),
            Fact("no replica of `shop:1` is left", lambda: len(replicas("shop:1")) > 0),
            Fact("nobody has asked the canary yet", lambda: asked(replicas("shop:2"))),
        ),
        hints=(
            "A canary is one replica that joins; nobody has to retire.",
            "The digest of version 2 is `release['2']`.",
            "`join(release['2'])`, and then clients for a second or two.",
        ),
        solution='join(release["2"])\nwith Clients():\n    time.sleep(3)',
    ),
)

QUIZ = (
    Question(
        id="label",
        asks="Why does the pipeline roll out `sha256:…` and not `shop:2`?",
        choices=(
            "digests are faster to look up",
            "a label can be moved to another image between test and roll-out",
            "labels are only for registries",
        ),
        right=2,
        why="A digest is computed from the content. Other content has another digest.",
    ),
    Question(
        id="first",
        asks="Process 1 of a container has no handler for SIGTERM, and somebody sends it one. What does the kernel do?",
        choices=("it ends the container", "nothing at all", "it gives the signal to the other processes"),
        right=2,
        why="The first process of a pid namespace is protected from signals that it has no handler for. Only SIGKILL "
        "from outside is certain.",
    ),
    Question(
        id="probe",
        asks="A service is overloaded and answers slowly. Which check should fail?",
        choices=(
            "readiness: fewer requests help it",
            "liveness: a new start helps it",
            "both",
        ),
        right=1,
        why="Killing a busy replica gives its load to the others, and they are next.",
    ),
    Question(
        id="way",
        asks="Version 2 must never be seen by somebody who is then served by version 1 again. Which way do you choose?",
        choices=("rolling update", "blue-green", "canary"),
        right=2,
        why="It changes over at one moment. In the other two both versions serve side by side.",
    ),
)

NOTES = (
    "About 25 minutes with both exercises. The classes Balancer and Clients may be run without being read; the order "
    "of the steps in `join` and `retire` is what the lesson is about.",
    "Students ask: is a balancer in Python not too slow? It is, and that does not matter: it shows the table and the "
    "moment at which it changes. nginx and HAProxy do the same when their configuration is loaded again.",
    "Students ask: why is the digest of a rebuilt image usually another one elsewhere? Times of files, the order of "
    "entries, and packages that were newer on the second day. `SOURCE_DATE_EPOCH` is what builders agreed on.",
    "If a number of lost requests is not zero where it should be: that is a find. Look at `clients.lost`, it holds "
    "what the client was told.",
)
