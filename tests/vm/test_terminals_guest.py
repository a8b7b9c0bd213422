"""A guest's terminal, a machine's serial port and its pointer: what a page asks for happens in the guest."""

import asyncio
import re
import subprocess
import time

import pytest

from tests.patience import now_s
from vmcontainer_kernel.live import guest_terminal, serial_terminal
from vmcontainer_kernel.paths import cache_dir
from vmcontainer_kernel.session import Session
from vmcontainer_kernel.vm.decompress import decompress
from vmcontainer_kernel.vm.qemu import SLOT
from vmcontainer_kernel.vm.screen import Picture, Screen

pytestmark = [pytest.mark.needs("qemu"), pytest.mark.needs("guest-image")]
LIMIT_S = 60.0


class Wire:
    """A comm that ends here, and the page at its end: it takes what it is sent and says so at once, unless `asleep`."""

    comm_id, kernel = "wire", "none"

    def __init__(self, view):
        self.view, self.shown, self.drawn, self.asleep = view, b"", -1, False
        view.set_trait("comm", self)
        view.watched = True
        self.tell()

    def on_msg(self, callback):
        pass

    def close(self):
        pass

    def send(self, data, metadata=None, buffers=None, **_):
        piece = data.get("content", {}).get("stream", {})
        if "start" not in piece or self.asleep:
            return
        if piece["anew"]:
            self.shown, self.drawn = b"", piece["start"]
        if piece["start"] != self.drawn:
            self.tell(lost=True)
            return
        data = b"".join(map(bytes, buffers or ()))
        self.shown += data
        self.drawn += len(data)
        self.tell()

    def tell(self, keys=b"", **more):
        said = {"page": "page", "drawn": self.drawn, "rows": 11, "columns": 44, "number": 0, **more}
        self.view._handle_custom_msg({"stream": said}, [keys])

    def until(self, done, pause_s=0.02):
        deadline = now_s() + LIMIT_S
        while not done():
            assert now_s() < deadline, (self.shown[-500:], self.view.document)
            time.sleep(pause_s)

    def wait_for(self, pattern):
        self.until(lambda: re.search(pattern, self.shown))

    def state(self, wanted):
        self.until(lambda: self.view.document.get("state") == wanted)


@pytest.fixture(scope="module")
def session():
    session = Session()
    session.wait(session.machines.ensure("seen"))
    yield session
    session.close()


def in_guest(session, script):
    """Run a shell script in the guest and return its output."""

    async def run():
        output = bytearray()

        def keep(stream, data):
            output.extend(data)
            request.consumed(stream, len(data))

        node = session.machines.guest("seen").node
        request = node.start("exec", {"argv": ["/bin/sh", "-c", script]}, on_data=keep)
        await request.done
        return output.decode()

    return session.wait(run())


def test_a_shell_in_the_guest_at_the_windows_size(session):
    wire = Wire(guest_terminal(session, "seen", "en"))
    wire.state("running")
    wire.tell(b"stty size; tty; echo $TERM >/root/typed; until stty size | grep 20; do sleep 0.1; done\n")
    wire.wait_for(rb"11 44\r\n/dev/pts/\d+\r\n")
    wire.tell(rows=20, columns=70)
    wire.wait_for(rb"20 70\r\n")
    assert in_guest(session, "cat /root/typed") == "xterm-256color\n"
    wire.tell(b"sleep 988\n")
    wire.until(lambda: "sleep 988" in in_guest(session, "ps"))
    wire.view.close()
    wire.until(lambda: "sleep 988" not in in_guest(session, "ps"))
    assert not re.search(r"sh -i|bash", in_guest(session, "ps"))


def test_what_runs_goes_on_while_nobody_looks_and_its_end_is_kept(session):
    wire = Wire(guest_terminal(session, "seen", "en", ["/bin/sh", "-c", "yes | head -c 150000; echo; echo over"]))
    wire.wait_for(rb"y\r\ny\r\n")
    wire.view.watched = False
    wire.asleep = True
    wire.until(lambda: "150000" not in in_guest(session, "ps"), pause_s=1)  # which takes a guest's time
    wire.asleep = False
    wire.view.watched = True
    wire.wait_for(rb"over\r\n$")
    wire.state("ended")
    assert wire.view.document["status"] == 0
    wire.view.close()


def test_the_serial_port_shows_what_it_said_and_takes_keys(session):
    wire = Wire(serial_terminal(session, "seen", "en"))
    wire.state("running")
    in_guest(session, "echo said by hand >/dev/console")
    wire.wait_for(rb"said by hand\r\n")
    reading = "stty -F /dev/ttyS0 raw -echo; echo ready >/dev/console; head -c 5 /dev/ttyS0 >/root/read"
    in_guest(session, f"({reading}) >/dev/null 2>&1 &")
    wire.wait_for(rb"ready")
    wire.tell(b"typed")
    wire.until(lambda: in_guest(session, "cat /root/read") == "typed")
    again = Wire(serial_terminal(session, "seen", "en"))
    again.wait_for(rb"said by hand\r\n")


READER = r"""
import glob, struct, sys
name = next(one for one in glob.glob("/sys/class/input/event*") if "Tablet" in open(f"{one}/device/name").read())
device = open("/dev/input/" + name.rpartition("/")[2], "rb", buffering=0)
print("ready", flush=True)
seen = {}
while True:
    kind, code, value = struct.unpack("llHHi", device.read(24))[2:]
    if kind in (1, 3):
        print(kind, code, value, flush=True)
    if (kind, code, value) == (1, 272, 0):
        break
"""


class Sized(Screen):
    """A screen whose picture is taken as read: this machine has a pointer and no display."""

    async def picture(self):
        return Picture(b"", 640, 480)


def modules_of(release, names, folder):
    """Kernel modules out of the package that the guest's kernel is from."""
    (package,) = (cache_dir("guests") / "packages").glob(f"*-linux-image-{release}_*.deb")
    patterns = [f"*/{name}.ko*" for name in names]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as source:
        subprocess.run(["tar", "-x", "-C", folder, "--wildcards", *patterns], check=True, stdin=source.stdout)
    return [decompress(next(folder.rglob(f"{name}.ko*")).read_bytes()) for name in names]


def test_a_click_arrives_in_the_guest_where_it_was_meant(session, tmp_path):
    """linux/input-event-codes.h: EV_KEY 1 with BTN_LEFT 272, EV_ABS 3 with ABS_X 0 and ABS_Y 1."""
    guest = session.machines.guest("seen")
    release, lines, names = in_guest(session, "uname -r").strip(), [], ("evdev", "virtio_input")
    modules = modules_of(release, names, tmp_path)

    async def click():
        for name, module in zip(names, modules, strict=True):
            await guest.node.put(module, f"/root/{name}.ko")
        await guest.machine.execute("device_add", driver="virtio-tablet-pci", id="pointer", bus=SLOT)

        def keep(stream, data):
            lines.append(data.decode())
            reading.consumed(stream, len(data))

        script = "insmod /root/evdev.ko; insmod /root/virtio_input.ko; "
        script += "until [ -e /dev/input/event0 ]; do sleep 0.1; done; exec python3 -u /root/reader"
        await guest.node.put(READER.encode(), "/root/reader")
        reading = guest.node.start("exec", {"argv": ["/bin/sh", "-c", script]}, on_data=keep)
        while "ready" not in "".join(lines):
            await asyncio.sleep(0.05)
        await Sized(guest.machine).click(160, 240)
        await reading.done

    session.wait(click(), LIMIT_S)
    events = [tuple(map(int, line.split())) for line in "".join(lines).split("ready\n")[1].splitlines()]
    assert (1, 272, 1) in events and events[-1] == (1, 272, 0)
    place = {code: value for kind, code, value in events if kind == 3}
    assert place == {0: 160 * 0x7FFF // 639, 1: 240 * 0x7FFF // 479}
