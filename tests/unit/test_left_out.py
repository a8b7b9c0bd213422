"""What ``--without`` leaves out of a configuration, and what it may leave out only where nothing is lost."""

from __future__ import annotations

import pytest

from vmcontainer_kernel.container.checks import check_options
from vmcontainer_kernel.container.config import MASKED_PATHS, READONLY_PATHS, make_config
from vmcontainer_kernel.container.ladder import Footing
from vmcontainer_kernel.container.options import Options
from vmcontainer_kernel.container.spec import User
from vmcontainer_kernel.errors import UserError


@pytest.mark.parametrize(
    ("left_out", "masked", "readonly"),
    [
        ([], True, True),
        (["masked-paths"], False, True),
        (["readonly-paths"], True, False),
        (["mask"], False, False),
    ],
)
def test_each_kind_of_guarded_path_can_be_left_out(left_out: list[str], *, masked: bool, readonly: bool) -> None:
    options = Options.from_json({"argv": ["true"], "without": left_out})
    linux = make_config(options, {})["linux"]
    assert linux["maskedPaths"] == (list(MASKED_PATHS) if masked else [])
    assert linux["readonlyPaths"] == (list(READONLY_PATHS) if readonly else [])


def test_the_root_can_be_left_out_in_a_machine_only() -> None:
    options = Options.from_json({"argv": ["true"], "without": ["root"]})
    assert make_config(options, {})["root"]["path"] == "/"
    check_options(options, User(), Footing(), grouped=True, guest=True)
    with pytest.raises(UserError, match="this computer's own files"):
        check_options(options, User(), Footing(), grouped=True)
