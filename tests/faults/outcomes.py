"""What may become of the VM in a cell of the fault matrix, by docs/handover.md: which copy it is that
can run at that point, and what a fault takes away there.

Nothing here is a list of what was seen. Where two ends are right, the place says why.
"""

from enum import IntEnum

from cells import DESTINATION, POINTS, SCENARIOS, SOURCE

ARRIVED, STAYED, AGAIN = "arrived", "stayed", "started again"
EITHER = {ARRIVED, STAYED}


class Stage(IntEnum):
    """How far a move has come where a point is passed."""
    ANNOUNCING = 0  # the destination knows nothing of it
    PREPARING = 1   # it makes itself ready; the lane may not be connected
    STREAMING = 2   # the lane is connected, and the guest runs on the source
    WORD = 3        # the source's copy is paused for good; the destination may not have been told
    TOLD = 4        # it has been told and has all it needs: it will claim
    CLAIMED = 5     # it has claimed
    RUNNING = 6     # the guest has been told to run there
    SWITCHING = 7   # post-copy: the source is about to order the switch, or has ordered it
    PARTED = 8      # post-copy: each side has a part of the guest


# With which point a stage begins.
BEGINS = {"migrate.src.before_journal": Stage.ANNOUNCING, "migrate.src.before_task": Stage.PREPARING,
          "migrate.src.before_stream": Stage.STREAMING, "migrate.src.before_handover": Stage.WORD,
          "migrate.dst.before_claim": Stage.TOLD, "pool.claim.after_link": Stage.CLAIMED,
          "migrate.dst.after_resume": Stage.RUNNING}
POSTCOPY = {"migrate.dst.before_incoming": Stage.PREPARING,
            "migrate.src.before_switch": Stage.SWITCHING, "migrate.src.after_switch": Stage.SWITCHING,
            "migrate.src.during_postcopy": Stage.PARTED, "migrate.dst.during_postcopy": Stage.PARTED}


def _stages():
    stages, now = {}, None
    for scenario, _, point in POINTS:
        if scenario == "move":
            now = BEGINS.get(point, now)
            stages[point] = now
    return stages


# bhyve's own points.
STAGES = {**_stages(), "migrate.src.before_stop": Stage.STREAMING, "wire.recv.held": Stage.STREAMING,
          "wire.recv.before_release": Stage.CLAIMED, "wire.recv.after_release": Stage.CLAIMED}
# A data mover that is held there does not hold up who is hit. before_ack: both hypervisors have done
# their part, and the droverds go on to the end. held: the source gives its word meanwhile.
# after_release: the guest may have run, or not yet.
HOLDS_NOTHING = {"wire.recv.before_ack", "wire.recv.held", "wire.recv.after_release"}


def is_switched(cell):
    """Whether the order to switch to post-copy has been given."""
    return cell.scenario == "post-copy" and cell.point not in (
        "migrate.dst.before_incoming", "migrate.src.before_switch")


def _hypervisor(cell, stage):
    """One that has the only copy takes the VM with it; else the other copy is the VM."""
    if cell.side == SOURCE:
        return {AGAIN} if stage < Stage.WORD else {ARRIVED}
    # One that ended before it was told to run has certainly not run: the VM is given back.
    return {STAYED} if stage < Stage.RUNNING else {AGAIN}


def _droverd(cell, stage):
    """One that is started again undoes on the source, and ends on the destination, what has not been
    claimed."""
    if stage >= Stage.CLAIMED:
        return {ARRIVED}
    if cell.side == DESTINATION:
        # It may be back before it is told of the migration.
        return EITHER if stage == Stage.ANNOUNCING else {STAYED}
    # Both claim: the one who comes first has it.
    return EITHER if stage == Stage.TOLD else {STAYED}


def _drover_wire(_, stage):
    """Once the destination has loaded all, its lane is needed no more; when that is, by the word of
    the source, is not known to it."""
    if stage == Stage.WORD:
        return EITHER
    return {ARRIVED} if stage > Stage.WORD else {STAYED}


def _error(cell, stage):
    """A step that fails ends the move, until the claim is made; and where the guest cannot be let run,
    the VM is given back."""
    stays = stage < Stage.CLAIMED or cell.point == "migrate.dst.after_claim"
    return {STAYED} if stays else {ARRIVED}


def _cut(_, stage):
    """Longer than a lane is made again: before the claim the pool decides, or the source, when it
    notices before all has gone."""
    return {ARRIVED} if stage >= Stage.CLAIMED else EITHER


def _blip(_, stage):
    """Shorter; but what is connected for the first time is not tried again."""
    return {ARRIVED} if stage >= Stage.STREAMING else EITHER


def _pool(cell, stage):
    """The destination's claim is all that needs the pool. It is over by then, or not, where it begins
    before the last moment."""
    if cell.fault == "read-only" and cell.side == SOURCE:
        return {ARRIVED}
    if cell.point == "migrate.dst.before_claim":
        return {STAYED}
    return {ARRIVED} if stage >= Stage.CLAIMED else EITHER


def _hang(_cell, _stage):
    """A step that takes long is waited for."""
    return {ARRIVED}


RULES = {"hypervisor": _hypervisor, "droverd": _droverd, "drover-wire": _drover_wire,
         "error": _error, "cut": _cut, "blip": _blip, "read-only": _pool, "full": _pool,
         "hang": _hang}


def _move(cell):
    if cell.point not in HOLDS_NOTHING:
        return RULES[cell.fault](cell, STAGES[cell.point])
    return set().union(*(RULES[cell.fault](cell, stage) for stage in Stage
                         if STAGES[cell.point] <= stage <= Stage.RUNNING))


def _postcopy(cell):
    stage = POSTCOPY[cell.point]
    # Whether its hypervisor follows the order, before it learns that the lane is gone, decides.
    ordered = cell.point == "migrate.src.after_switch"
    if cell.fault in ("read-only", "full", "hang"):
        return {ARRIVED}  # past the switch the pool is waited for
    if stage == Stage.PREPARING:
        return RULES[cell.fault](cell, stage)
    if cell.fault == "hypervisor":
        return {AGAIN} if is_switched(cell) or cell.side == SOURCE else {STAYED}
    if stage == Stage.PARTED or cell.fault == "blip":
        return {ARRIVED}
    if cell.fault in ("drover-wire", "cut"):
        return EITHER
    # A destination that may be switched is gone on with; a source that has not ordered it goes back.
    if cell.fault == "droverd" and cell.side == DESTINATION:
        return {ARRIVED}
    return EITHER if ordered else {STAYED}


def _decided(cell, end):
    """The scenario has decided whose the VM is before the fault."""
    holder = SOURCE if end == STAYED else DESTINATION
    if cell.fault == "hypervisor" and cell.side == holder:
        return {AGAIN}
    # It finds its claim and its copy again, and nothing any more that keeps that from running.
    if cell.scenario == "given back" and cell.fault == "droverd" and cell.side == DESTINATION:
        return {ARRIVED}
    return {end}


def _has_the_rest(cell):
    """Whether the fault takes away the data mover that holds the last of a guest back until it may run
    (docs/bhyve.md): the VM is given back then."""
    ends = (cell.fault == "drover-wire" and cell.side == DESTINATION or
            cell.fault == "error" and cell.point == "wire.recv.before_release")
    return (ends and cell.scenario == "move" and cell.point not in HOLDS_NOTHING and
            Stage.WORD <= STAGES[cell.point] < Stage.RUNNING)


def _ends_what_never_ran(cell):
    """Whether the fault ends the destination's copy after it was claimed for and before the data mover
    has let it have the last of the guest. It has never run (docs/bhyve.md): the next droverd gives the
    VM back."""
    return (cell.scenario == "destination again" and cell.side == DESTINATION and
            cell.fault in ("hypervisor", "drover-wire"))


def _has_no_connection(cell):
    """Whether droverd and drover-wire of the source have both died before it was decided whose the
    guest is: a hypervisor that takes the end of its connection for any answer may have ended
    (docs/bhyve.md), and is said to have."""
    return ((cell.scenario, cell.fault, cell.side) == ("source again", "drover-wire", SOURCE)
            and cell.point == "migrate.src.before_recover")


def right(cell, idle=False, holds_back=False):
    """The ends of a cell that are right. `idle`: there was nothing that the fault could hit.
    `holds_back`: of a hypervisor that would let the guest run as soon as it has all of it."""
    end = SCENARIOS[cell.scenario].end
    if idle:
        return {end}
    if holds_back and (_has_the_rest(cell) or _ends_what_never_ran(cell)):
        return {STAYED}
    if holds_back and _has_no_connection(cell):
        return {STAYED, AGAIN}
    if cell.scenario == "move":
        return _move(cell)
    return _postcopy(cell) if cell.scenario == "post-copy" else _decided(cell, end)
