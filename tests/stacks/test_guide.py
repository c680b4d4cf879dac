"""docs/deploy.md, done as it says: every command of it on four fresh boxes, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.stacks.fleet import QUICK, REPOSITORY
from tests.stacks.guide import Block, Desk, blocks
from tests.stacks.lab import Lab, lab
from tests.way import until

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(4800)]

PAGE = REPOSITORY / "docs" / "deploy.md"
BY_HAND = "on cloud, by hand"
#: Nothing that a reader waits for may take longer, in seconds.
PATIENCE = 600.0
#: Blocks that are not run as they stand, by what they hold, and why.
LEFT_OUT = {
    "apt-get install --yes docker.io": "a box of the test has Docker; where this machine has none it is installed so",
    "git clone": "the checkout, its environment and its images are what is tested",
    "alpine/socat": "an image that only a registry has",
    "put coaps.pem": "a certificate that only the reader has",
}


@pytest.fixture(scope="module")
def fresh() -> Iterator[Lab]:
    with lab() as made:
        yield made


def test_every_block_of_the_guide_says_where_it_is_run() -> None:
    told = [one for one in blocks(PAGE) if one.language in ("sh", "console")]
    assert len(told) > 10
    assert [f"line {one.line}" for one in told if not one.place.startswith("on ")] == []


def test_guide_takes_four_fresh_boxes_to_a_running_fleet_and_by_hand_too(fresh: Lab, tmp_path: Path) -> None:
    desk = Desk(folder=tmp_path / "desk", boxes=fresh.boxes)
    desk.prepare(REPOSITORY)
    cloud = fresh.boxes["cloud"]
    by_hand = False
    for block in blocks(PAGE):
        if block.language == "yaml" and block.place == "fleet.yaml":
            # There is no registry to be asked, and nothing to be watched for after it came up.
            wanted = yaml.safe_load(block.text) | {"resolve_images": "never"}
            for place in (wanted["cloud"], *wanted["gateways"].values()):
                assert "settings" not in place
                place["settings"] = QUICK
            (desk.folder / "fleet.yaml").write_text(yaml.safe_dump(wanted))
        elif block.language not in ("sh", "console"):
            continue
        elif why := next((why for part, why in LEFT_OUT.items() if part in block.text), None):
            print(f"line {block.line} is not run: {why}")
        elif "docker swarm join " in block.text:
            token = cloud.docker("swarm", "join-token", "--quiet", "worker")
            assert "SWMTKN-…" in block.text
            for box in [name for name in fresh.boxes if name in block.place]:
                desk.run(box, block.text.replace("SWMTKN-…", token))
        else:
            if block.place == BY_HAND and not by_hand:
                by_hand = True
                _all_run(desk)
                cloud.docker("stack", "rm", "sensors-rock64")
                desk.run("cloud", "headwater deploy remove fleet.yaml --yes")
            _run(desk, block)
    _all_run(desk)


def _run(desk: Desk, block: Block) -> None:
    """Run it; what asks a device or a Kafka that just began is asked again, as a reader would."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            desk.run("cloud", block.text)
            return
        except AssertionError as exc:
            if "client " not in block.text or time.monotonic() > end:
                raise AssertionError(f"{PAGE.name}, line {block.line}: {exc}") from exc
            time.sleep(1)


def _all_run(desk: Desk) -> None:
    """Wait until every service has all its tasks, and what runs once has ended well."""
    cloud = desk.boxes["cloud"]

    def wrong() -> list[str]:
        short = [name for name, count in cloud.services().items() if len(set(count.split("/"))) > 1]
        form = "{{.CurrentState}}"
        return [
            name
            for name in short
            if not (
                name.endswith("_setup") and cloud.docker("service", "ps", "--format", form, name).startswith("Complete")
            )
        ]

    until("every service runs", lambda: not wrong(), PATIENCE)
