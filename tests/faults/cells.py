"""The cells of the fault matrix: a fault point, what goes wrong there, and on which side.

A point is reached in a scenario: an ordinary move, one that is undone, one that the destination
gives back, one that is taken up again by a droverd that was killed, a switch to post-copy. The
scenario arms what leads there.
"""

from dataclasses import dataclass, field

SOURCE, DESTINATION = 0, 1
SIDES = ("source", "destination")

# What goes wrong. `error` and `hang` come from the point itself, the others from outside while it
# is held there.
POINT_FAULTS = ("error", "hang")
SIDE_FAULTS = ("droverd", "hypervisor", "drover-wire", "cut", "blip", "read-only")
SHARED_FAULTS = ("full",)


@dataclass(frozen=True)
class Scenario:
    """How a point is come to: what else is armed on each side, and how it is moved. `restarts`: the
    side whose droverd is killed by that first, and has the point armed when it is started again.
    `end`: what becomes of the VM when nothing goes wrong beyond that."""
    end: str
    armed: tuple = ("", "")
    options: tuple = ()
    busy: bool = False
    restarts: int = None


SCENARIOS = {
    "move": Scenario("arrived"),
    "undone": Scenario("stayed", armed=("", "migrate.dst.before_claim:error")),
    "given back": Scenario("stayed", armed=("", "migrate.dst.after_claim:error")),
    "source again": Scenario("stayed", armed=("migrate.src.before_handover:kill", ""),
                             restarts=SOURCE),
    "destination again": Scenario("arrived", armed=("", "migrate.dst.after_claim:kill"),
                                  restarts=DESTINATION),
    "post-copy": Scenario("arrived", options=("--postcopy",), busy=True),
}

# (scenario, side whose process passes it, point)
POINTS = [
    ("move", SOURCE, "migrate.src.before_journal"),
    ("move", SOURCE, "migrate.src.before_prepare"),
    ("move", SOURCE, "migrate.src.before_task"),
    ("move", DESTINATION, "migrate.dst.before_listen"),
    ("move", SOURCE, "migrate.src.before_lane"),
    ("move", DESTINATION, "migrate.dst.before_start"),
    ("move", DESTINATION, "migrate.dst.before_incoming"),
    ("move", DESTINATION, "migrate.dst.before_ready"),
    ("move", SOURCE, "migrate.src.before_stream"),
    ("move", DESTINATION, "migrate.dst.before_loaded"),
    ("move", SOURCE, "wire.send.connected"),
    ("move", DESTINATION, "wire.recv.connected"),
    ("move", SOURCE, "wire.send.half"),
    ("move", SOURCE, "migrate.src.during_rounds"),
    ("move", DESTINATION, "wire.recv.before_ack"),
    ("move", SOURCE, "migrate.src.before_handover"),
    ("move", DESTINATION, "migrate.dst.before_claim"),
    ("move", DESTINATION, "pool.claim.before_write"),
    ("move", DESTINATION, "pool.claim.before_link"),
    ("move", DESTINATION, "pool.claim.after_link"),
    ("move", DESTINATION, "migrate.dst.after_claim"),
    ("move", DESTINATION, "migrate.dst.after_resume"),
    ("move", DESTINATION, "migrate.dst.before_answer"),
    ("move", DESTINATION, "migrate.dst.before_done"),
    ("move", SOURCE, "migrate.src.before_end"),
    ("move", SOURCE, "migrate.src.before_done"),
    ("undone", SOURCE, "migrate.src.before_reclaim"),
    ("undone", SOURCE, "pool.claim.before_link"),
    ("undone", SOURCE, "pool.claim.after_link"),
    ("undone", SOURCE, "migrate.src.after_reclaim"),
    ("undone", SOURCE, "migrate.src.before_abort"),
    ("given back", DESTINATION, "migrate.dst.before_hand_back"),
    ("source again", SOURCE, "migrate.src.before_recover"),
    ("destination again", DESTINATION, "migrate.dst.before_recover"),
    ("post-copy", DESTINATION, "migrate.dst.before_incoming"),
    ("post-copy", SOURCE, "migrate.src.before_switch"),
    ("post-copy", SOURCE, "migrate.src.after_switch"),
    ("post-copy", SOURCE, "migrate.src.during_postcopy"),
    ("post-copy", DESTINATION, "migrate.dst.during_postcopy"),
]

# With bhyve, which runs a guest at once, there is more to hold, and no post-copy.
BHYVE_POINTS = [point for point in POINTS if point[0] != "post-copy"] + [
    ("move", SOURCE, "migrate.src.before_stop"),
    ("move", DESTINATION, "wire.recv.held"),
    ("move", DESTINATION, "wire.recv.before_release"),
    ("move", DESTINATION, "wire.recv.after_release"),
]

# Passed only after another fault, or by no migration; tests of their own have them.
ELSEWHERE = {"wire.link.reconnected", "migrate.src.before_renew", "migrate.dst.before_renew",
             "vm.start.before_claim", "vm.start.after_claim", "vm.stop.before_release",
             "vm.start.before_resume", "vm.start.before_remove", "vm.suspend.before_save",
             "vm.suspend.before_publish", "vm.suspend.before_release",
             "vm.recover.before_claim", "vm.lost.before_end",
             "migrate.dst.before_give_up",
             # Of guests that move as files; bhyvelab.warm_cells() has them.
             "hv.suspend.before", "hv.suspend.after", "hv.restore.before", "hv.restore.after"}

# Steps at which nothing fails when they are asked to, or that are tried until they do not: an error
# that comes each time has no end.
NO_ERROR = {"migrate.dst.before_hand_back", "migrate.src.during_postcopy",
            "migrate.dst.during_postcopy", "migrate.dst.after_resume", "migrate.dst.before_answer", "migrate.dst.before_done",
            "migrate.src.before_recover", "migrate.dst.before_recover"}


@dataclass(frozen=True)
class Cell:
    """One test: `fault` on `side` while `holder`'s process stands at `point`."""
    scenario: str
    holder: int
    point: str
    fault: str
    side: int = field(default=None)

    def __str__(self):
        where = f" on the {SIDES[self.side]}" if self.side is not None else ""
        return f"{self.point} ({self.scenario}): {self.fault}{where}"


def all_cells(points=tuple(POINTS)):
    """Every cell, in the order in which a migration passes its points."""
    cells = []
    for scenario, holder, point in points:
        for fault in POINT_FAULTS:
            if fault == "hang" or point not in NO_ERROR:
                cells.append(Cell(scenario, holder, point, fault))
        for fault in SIDE_FAULTS:
            cells += [Cell(scenario, holder, point, fault, side) for side in (SOURCE, DESTINATION)]
        cells += [Cell(scenario, holder, point, fault) for fault in SHARED_FAULTS]
    return cells


def core_cells():
    """Those around the handover, where it is decided, and one of each kind elsewhere."""
    wanted = {
        ("wire.send.half", "drover-wire", SOURCE), ("wire.send.half", "drover-wire", DESTINATION),
        ("migrate.dst.before_ready", "hypervisor", DESTINATION),
        ("migrate.src.during_rounds", "hypervisor", SOURCE),
        ("migrate.src.during_rounds", "blip", SOURCE),
        ("migrate.src.before_handover", "droverd", DESTINATION),
        ("migrate.src.before_handover", "cut", SOURCE),
        ("migrate.src.before_handover", "hypervisor", DESTINATION),
        ("migrate.dst.before_claim", "droverd", SOURCE),
        ("migrate.dst.before_claim", "cut", DESTINATION),
        ("migrate.dst.before_claim", "read-only", DESTINATION),
        ("migrate.dst.before_claim", "full", None),
        ("pool.claim.after_link", "droverd", DESTINATION),
        ("pool.claim.after_link", "error", None),
        ("migrate.dst.after_claim", "droverd", SOURCE),
        ("migrate.dst.after_claim", "hypervisor", DESTINATION),
        ("migrate.dst.after_resume", "hypervisor", DESTINATION),
        ("migrate.dst.after_resume", "cut", SOURCE),
        ("migrate.dst.before_answer", "droverd", DESTINATION),
        ("migrate.src.before_end", "droverd", SOURCE),
        ("migrate.src.after_reclaim", "droverd", SOURCE),
        ("migrate.dst.before_hand_back", "droverd", DESTINATION),
        ("migrate.src.before_recover", "hypervisor", SOURCE),
        ("migrate.dst.before_recover", "droverd", SOURCE),
        ("migrate.src.after_switch", "drover-wire", SOURCE),
    }
    return [cell for cell in all_cells() if (cell.point, cell.fault, cell.side) in wanted and
            (cell.scenario != "undone" or cell.point.startswith("migrate."))]
