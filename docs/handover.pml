/*
 * The handover of a migration from A to B (docs/handover.md), for spin. With MAY_SWITCH it has been
 * allowed to be switched to post-copy: handover_postcopy.pml has what is different then.
 *
 * `make model` checks it. What is modelled: droverd on both sides, each with its journal, thread of
 * the migration and threads that answer calls; both hypervisors; the stream between them; the pool;
 * calls whose question or answer is lost; a user who cancels; and the faults below, each at any
 * point. Names are those of the code: source_run(), source_settle(), source_recover() are DroverdA;
 * dest_run(), dest_recover() are DroverdB; migrations_handover() and migrations_abort() are CallsB.
 *
 * Faults, each so often in one run:
 *   CRASHES  of either droverd, of either hypervisor, or of either node (both at once)
 *   LOST     questions or answers
 *   BREAKS   of the stream for good (data movers, lane), or of a hypervisor's loading
 *   OUTAGES  of the pool, as one of the nodes sees it; a claim that is being made then is made or
 *            not, and its caller is not told which
 * A droverd or node that crashed comes back, sooner or later; NODES_STAY_DEAD: nodes do not.
 *
 * Broken variants, in which spin must find an error:
 *   CLAIM_AFTER_RUN     B lets the guest run and claims then
 *   CLAIM_WHEN_LOADED   B does not wait for A's word
 *   GO_ON_UNCLAIMED     A goes on after a handover that was not answered, without a claim
 *   ENDED_AFTER_CLAIM   B, started again after a claim, says that it has ended, though it may have
 *                       run the guest
 *   END_UNASKED         A ends its copy after a handover that was not answered
 *   END_BEFORE_GIVING   B, which cannot let the guest run, ends its copy and gives the VM back then
 *   GIVE_BACK_BLINDLY   B gives the VM back though the guest may have run
 * REACH=n makes state n of Observer an error, so that a search shows that it is reached.
 */
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef LOST
#define LOST 1
#endif
#ifndef BREAKS
#define BREAKS 0
#endif
#ifndef OUTAGES
#define OUTAGES 0
#endif
#ifndef REACH
#define REACH 0
#endif

/* Steps, as in the journal (enum migrate_step); NONE: no row yet. ENDED: the row is closed. */
mtype:step = { NONE, PREPARE, STREAM, SWITCH, HANDOVER, CLAIM, POSTCOPY, UNDO, END, ENDED };
mtype:step stepA = NONE, stepB = NONE;
bool doneA, doneB; /* closed as `done`; false: failed or cancelled */

/* Hypervisors. A's: SWITCHOVER, its guest is paused and goes on by itself when the stream breaks;
 * COMPLETED, paused for good (postmigrate). B's: WAITING for the stream, LOADED. The others: see
 * handover_postcopy.pml. */
mtype:hv = { GONE, RUNNING, SWITCHOVER, COMPLETED, WAITING, LOADED, PAUSED, SWITCHING, STUCK,
	IN_POSTCOPY };
mtype:hv hvA = RUNNING, hvB = GONE;
bool streaming; /* the stream is whole */
bool written;   /* A's hypervisor has written all of it, and closed its end */

/* The pool: owner.1 is A's. Nobody: released, by a node whose hypervisor was gone. */
mtype:node = { NOBODY, A, B };
mtype:node owner[5] = { NOBODY, A, NOBODY, NOBODY, NOBODY };
byte epoch = 1;
bool poolA = true, poolB = true; /* whether the node reaches it */

/* Calls from A to B: at most one at a time. */
mtype:question = { NO_CALL, EXPECT, READY, HANDOVER_CALL, ABORT, RECOVER };
mtype:word = { NO_WORD, YES, FAILED, RUNS, WHOLE, RAN, ENDED_WORD, UNKNOWN };
mtype:question question = NO_CALL;
mtype:word answer = NO_WORD;
bool brokenA; /* what has become of the VM is not known to A, or it is off: BROKEN */
mtype:word said = NO_WORD; /* the last call's answer */
bool unanswered; /* the question or the answer was lost: A's call will time out */

/* What droverd on B holds in memory. */
bool knownB, readyB, handoverB, abortB, claimedB, uncertainB, resumedB, endedB, may_have_runB;
bool receivedB; /* dest_run() has the migration */

bool upA = true, upB = true; /* droverd */
bool deadA, deadB;           /* a node that stays dead */
bool cancel;                 /* the user's */
byte crashes = CRASHES, lost = LOST, breaks = BREAKS, outages = OUTAGES;
bool droverd_crashed, hypervisor_crashed, undecided;
bool ranB; /* the guest has run on B: A's copy is an old one */

#define two_run (hvA == RUNNING && hvB == RUNNING)
#define MINE_A (owner[epoch] == A)
#define MINE_B (owner[epoch] == B)

#define SAID_RUNNING (said == RUNS || said == WHOLE || said == RAN)
#ifdef MAY_SWITCH
#include "handover_postcopy.pml"
#else
#define NOT_NEEDED assert(hvA == GONE || !MINE_A)
#define HV_A_DIES hvA = GONE
#define switchedB false
#define TIMES_OUT(what) false
#define NEVER_RUNS false
#endif

/* pool_owner_claim(): one winner of an epoch. `made` is what the caller is told: won, lost or, when
 * the pool went away meanwhile, that it cannot be known. */
mtype:outcome = { WON, NOT_OWNER, NOT_KNOWN };

inline claim(number, who, reaches, told)
{
	d_step {
		if
		:: epoch >= number -> told = NOT_OWNER
		:: else -> epoch = number; owner[number] = who; told = WON
		fi
	}
	assert(epoch <= 4);
}

inline claim_or_not(number, who, reaches, told)
{
	if
	:: atomic { reaches -> claim(number, who, reaches, told) }
	:: atomic { !reaches -> told = NOT_KNOWN } /* not made */
	:: atomic { outages > 0 && reaches && epoch < number ->
		outages--; reaches = false;
		claim(number, who, reaches, told);
		told = NOT_KNOWN } /* made */
	fi
}

/* ---- A ---- */


/* source_call(): NO_WORD when nothing came, and B may have heard the question. */
inline call(what)
{
	atomic { !unanswered -> question = what; answer = NO_WORD };
	if
	:: atomic { answer != NO_WORD -> said = answer; answer = NO_WORD; question = NO_CALL }
	:: atomic { unanswered || !upB || TIMES_OUT(what) -> said = NO_WORD; unanswered = false; question = NO_CALL;
		answer = NO_WORD }
	fi
}

/* keep_going_on(). Locks of disks, which not every file system has, are not relied on. */
inline go_on()
{
	if
	:: atomic { hvA == SWITCHOVER -> streaming = false; hvA = RUNNING } /* hv_vm_migrate_cancel */
	:: hvA == RUNNING
	:: hvA == GONE
	:: atomic { hvA != SWITCHOVER && hvA != RUNNING && hvA != GONE ->
		assert(!MINE_B); /* once claimed, never resumed elsewhere */
#ifndef CLAIM_AFTER_RUN
		assert(!ranB);
#endif
		hvA = RUNNING;
#ifdef MAY_SWITCH
		streaming = false /* hv_vm_migrate_abandon() */
#endif
		}
	fi
}

inline end_copy_A()
{
	stepA = END;
	atomic {
		NOT_NEEDED;
		hvA = GONE; streaming = false };
	atomic { stepA = ENDED; doneA = !brokenA };
}

mtype:outcome toldA;
mtype:step verdict; /* UNDO: ours, END: theirs */
bool sawB; /* B was the owner when the pool was asked */

/* source_settle_ownership(): the pool first, then B's word, until one of them tells. */
inline settle_ownership()
{
	do
	:: if
	   :: poolA ->
		toldA = NOT_OWNER;
		if
		:: epoch == 1 -> claim_or_not(2, A, poolA, toldA)
		:: else
		fi;
		if
		:: toldA == NOT_KNOWN -> skip
		:: atomic { toldA != NOT_KNOWN && MINE_A -> verdict = UNDO; break }
		:: atomic { toldA != NOT_KNOWN && !MINE_A -> sawB = MINE_B };
			/* ask_claimer() */
			call(ABORT);
			if
			:: SAID_RUNNING -> verdict = END; break
			:: !SAID_RUNNING && !sawB -> brokenA = true; verdict = END; break
			/* For as long as a lane is made again, which is longer than a droverd needs
			 * to start again. */
			:: said == NO_WORD && sawB && deadB -> brokenA = true; verdict = END; break
#ifdef MAY_SWITCH
#ifndef WAIT_FOR_HANGING
			/* Our hypervisor has died after the switch, and B's hangs for its pages */
			:: stepA == SWITCH && hvA == GONE && hangsB -> verdict = END; break
#endif
#endif
			:: else -> toldA = WON /* again */
			fi
		fi
	   :: !poolA -> toldA = NOT_KNOWN
	   fi;
	   if
	   :: toldA == NOT_KNOWN ->
		call(ABORT);
		if
		:: SAID_RUNNING -> verdict = END; break
		:: said == ENDED_WORD -> verdict = UNDO; break
		:: else
		fi
	   :: else
	   fi;
	   undecided = true;
	   /* Two seconds, and again when there may be something new. */
	   if
	   :: toldA == NOT_KNOWN -> (poolA || stepB == ENDED || resumedB)
	   :: else -> (MINE_A || resumedB || !upB || stepB == ENDED || NEVER_RUNS)
	   fi
	od
}

inline source_settle()
{
	if
	:: stepA == END -> verdict = END
#ifdef MAY_SWITCH
	:: stepA == SWITCH || stepA == POSTCOPY -> source_settle_switched()
#endif
	:: stepA == HANDOVER ->
#ifdef GO_ON_UNCLAIMED
		verdict = UNDO
#elif defined(END_UNASKED)
		verdict = END
#else
		settle_ownership()
#endif
	:: else ->
		stepA = UNDO;
		atomic { if :: hvA == SWITCHOVER -> hvA = RUNNING :: else fi; streaming = false };
		verdict = UNDO
	fi;
	if
	:: verdict == END -> end_copy_A()
	:: else ->
		go_on();
		call(ABORT); /* abort_destination(), once */
		atomic { stepA = ENDED; doneA = false }
	fi
}

inline source_run()
{
	stepA = PREPARE;
	call(EXPECT);
	if :: said != YES -> goto settle :: else fi;
	call(READY);
	if :: said != YES -> goto settle :: else fi;
	stepA = STREAM;
	atomic { if :: hvA == RUNNING && hvB == WAITING -> streaming = true :: else fi };
	if
	:: hvA == COMPLETED
	:: !streaming || hvA == GONE -> goto settle
	:: cancel -> goto settle
#ifdef MAY_SWITCH
	:: hvA == RUNNING && streaming && upB && stepB != ENDED -> source_switch()
#endif
	fi;
	if :: cancel && stepA == STREAM -> goto settle :: else fi; /* source_pass_cancel() */
	stepA = HANDOVER;
handover:
	do
	:: call(HANDOVER_CALL);
	   if
#ifdef MAY_SWITCH
	   :: SAID_RUNNING && stepA == SWITCH -> source_follow(); end_copy_A(); goto over
#endif
	   :: SAID_RUNNING && stepA == HANDOVER -> end_copy_A(); goto over
	   :: said == NO_WORD -> /* asked again, for a while */
		if :: !(stepA == SWITCH && hvA == GONE) :: goto settle fi;
#ifdef MAY_SWITCH
		mend_lane()
#endif
	   :: else -> goto settle
	   fi
	od;
settle:	source_settle();
over:	skip
}

/* source_recover(). A VM whose hypervisor is gone was released when VMs were looked for. */
inline source_recover()
{
	if
	:: stepA == NONE || stepA == ENDED
	:: else ->
		if
		:: hvA == GONE ->
			poolA;
			if
			:: atomic { MINE_A -> epoch++; owner[epoch] = NOBODY }
			:: else
			fi;
			if
			:: MINE_B && (stepA == HANDOVER || stepA == END)
#ifdef MAY_SWITCH
			:: MINE_B && (stepA == SWITCH || stepA == POSTCOPY) -> tell_broken()
#endif
			:: else -> call(ABORT)
			fi;
			stepA = ENDED
		:: else -> source_settle()
		fi
	fi
}

active proctype DroverdA()
{
	{ source_run() } unless { !upA };
end_over:
	do
	:: upA && stepA != ENDED && stepA != NONE -> { source_recover() } unless { !upA }
	:: atomic { !upA && !deadA -> upA = true } /* it is started again */
	od
}

/* ---- B ---- */

/* Whether this side has ended, or lets the guest run; verdict_of(), and verdict_before() for a
 * migration that only the journal knows. */
inline word_of_B()
{
	if
#ifdef MAY_SWITCH
	:: stepB == ENDED && doneB -> answer = WHOLE
	:: stepB == ENDED && !doneB && (resumedB || ranB_closed) -> answer = RAN
	:: stepB == POSTCOPY || (stepB != ENDED && resumedB) -> answer = RUNS
#else
	:: resumedB || (stepB == ENDED && doneB) -> answer = RUNS
#endif
	:: else ->
		if
		:: stepB == ENDED && !claimedB && !uncertainB -> answer = ENDED_WORD
		:: else -> answer = UNKNOWN
		fi
	fi
}

/* The threads that answer. One that waits dies with droverd, and its answer with it. */
active proctype CallsB()
{
end:	do
	:: atomic { lost > 0 && question != NO_CALL && !unanswered && answer == NO_WORD ->
		lost--; unanswered = true } /* the question is lost */
	:: atomic { upB && question == EXPECT && answer == NO_WORD && !unanswered ->
		if
		:: stepB == NONE -> stepB = PREPARE; knownB = true; answer = YES
		:: else -> answer = FAILED
		fi }
	:: atomic { upB && question == READY && answer == NO_WORD && !unanswered &&
			(readyB || stepB == ENDED || !knownB) ->
		if :: readyB && stepB != ENDED -> answer = YES :: else -> answer = FAILED fi }
	:: atomic { upB && question == HANDOVER_CALL && !handoverB && knownB && !unanswered ->
		handoverB = true }
	:: atomic { upB && question == HANDOVER_CALL && answer == NO_WORD && !unanswered &&
			(handoverB || !knownB) && (resumedB || stepB == ENDED || (!knownB && !receivedB)) ->
		word_of_B() }
	:: atomic { upB && question == ABORT && !abortB && knownB && !unanswered -> abortB = true;
		if
		:: !receivedB && stepB != ENDED -> stepB = ENDED; doneB = false /* never begun */
		:: else
		fi }
	:: atomic { upB && question == ABORT && answer == NO_WORD && !unanswered &&
			(abortB || !knownB) && (resumedB || stepB == ENDED || stepB == NONE || claimedB || !knownB) ->
		if
		:: stepB == NONE -> answer = UNKNOWN /* the journal has no such row */
		:: else -> word_of_B()
		fi }
#ifdef MAY_SWITCH
	:: atomic { upB && question == RECOVER && answer == NO_WORD && !unanswered ->
		migrations_renew_lane() }
#endif
	:: atomic { lost > 0 && answer != NO_WORD && !unanswered ->
		lost--; unanswered = true; answer = NO_WORD } /* the answer is lost */
	od
}

mtype:outcome toldB;

/* The guest runs here. It fails, for a disk that it may not lock, say, as often as BREAKS says. */
inline let_run(worked)
{
	if
	:: atomic { hvB == LOADED ->
#ifndef CLAIM_AFTER_RUN
		assert(MINE_B);
#endif
		may_have_runB = true; hvB = RUNNING; ranB = true };
		if :: hvB == RUNNING -> worked = true :: hvB == GONE -> worked = false fi
	:: atomic { hvB == RUNNING -> worked = true }
	:: atomic { hvB == GONE -> worked = false }
#ifdef MAY_SWITCH
	:: atomic { hvB == LOADED && switchedB && !wholeB && !streaming -> hangsB = true };
		sit_out_hang(worked)
#endif
	:: atomic { breaks > 0 && hvB == LOADED && !switchedB -> breaks--; may_have_runB = false;
		worked = false }
	fi
}

inline end_loaded_B()
{
	atomic { if :: hvB != RUNNING -> hvB = GONE :: else fi }
}

/* give_up(): claims the next epoch in A's name until the pool takes it, in nobody's where the guest
 * may have run. */
inline give_up()
{
#ifdef END_BEFORE_GIVING
	end_loaded_B();
#endif
#ifdef GIVE_BACK_BLINDLY
	may_have_runB = false;
#endif
	do
	:: poolB ->
		claim_or_not(3, (may_have_runB -> NOBODY : A), poolB, toldB);
		if
		:: toldB != NOT_KNOWN -> claimedB = false; uncertainB = may_have_runB; break
		:: else
		fi
	od
}

inline end_failed_B()
{
	end_loaded_B();
	atomic { stepB = ENDED; doneB = false; endedB = true }
}

bool workedB;

inline run_here()
{
	let_run(workedB);
	if
#ifdef MAY_SWITCH
	:: workedB && switchedB -> resumedB = true; follow_B()
#endif
	:: workedB && !switchedB -> resumedB = true; atomic { stepB = ENDED; doneB = true }
	:: else -> give_up(); end_failed_B()
	fi
}

/* wait_loaded(), wait_handover(), claim() */
inline take_over()
{
	if
	:: hvB == LOADED
	:: hvB == GONE || abortB -> end_failed_B(); goto over_B
#ifdef MAY_SWITCH
	:: hvB == LOADED && !streaming -> end_failed_B(); goto over_B /* mover_check() */
#endif
	fi;
#ifdef MAY_SWITCH
	switchedB = !wholeB;
#endif
	/* A source that is silent for two minutes is down or cut off. */
#ifndef CLAIM_WHEN_LOADED
	if
	:: handoverB
	:: abortB -> end_failed_B(); goto over_B
	:: !switchedB && (!upA || deadA || (stepA == ENDED && question == NO_CALL)) ->
		end_failed_B(); goto over_B
#ifdef MAY_SWITCH
	:: WITHOUT_WORD
#endif
	fi;
#endif
	stepB = CLAIM;
#ifdef CLAIM_AFTER_RUN
	let_run(workedB);
#endif
	do
	:: claim_or_not(2, B, poolB, toldB);
	   if
	   :: toldB == NOT_KNOWN ->
		poolB; /* find_out_claim() */
		if
		:: MINE_B && epoch == 2 -> toldB = WON; break
		:: else -> if :: switchedB :: !switchedB -> toldB = NOT_OWNER; break fi
		fi
	   :: else -> break
	   fi
	od;
	if
	:: toldB == WON -> claimedB = true; run_here()
	:: else -> end_failed_B()
	fi
}

inline prepare_B()
{
	if
	:: atomic { hvB == GONE -> hvB = WAITING }
	:: breaks > 0 -> breaks--; end_failed_B(); goto over_B
	fi;
	stepB = STREAM;
	readyB = true
}

/* dest_recover(): only what the pool says we have claimed is ours; all else is ended. */
inline dest_recover()
{
	poolB;
	/* vms_find(): a VM whose hypervisor is gone is nobody's */
	atomic { if :: hvB == GONE && MINE_B -> epoch++; owner[epoch] = NOBODY :: else fi };
	atomic { claimedB = (MINE_B && epoch == 2); may_have_runB = (hvB != LOADED); knownB = true;
		receivedB = true };
#ifdef MAY_SWITCH
	hangsB = false;
#endif
#ifndef ENDED_AFTER_CLAIM
	atomic { uncertainB = (stepB == CLAIM && epoch > 1 && !claimedB) };
#endif
#ifdef MAY_SWITCH
	atomic { switchedB = (hvB != GONE && hvB != WAITING && !wholeB);
#ifndef FORGET_RAN
		ranB_closed = (stepB == POSTCOPY)
#endif
		};
#endif
	if
	:: claimedB -> run_here(); goto over_B
#ifdef MAY_SWITCH
	:: !claimedB && hvB != GONE && epoch == 1 && WAS_READY -> readyB = SAYS_READY
	:: !claimedB && (hvB == GONE || epoch > 1 || !WAS_READY) -> end_failed_B(); goto over_B
#else
	:: else -> end_failed_B(); goto over_B
#endif
	fi
}

inline dest_run()
{
	if
	:: receivedB -> prepare_B()
	:: !receivedB -> dest_recover()
	fi;
	take_over();
over_B:	skip
}

active proctype DroverdB()
{
end_over:
	do
	:: atomic { upB && knownB && stepB == PREPARE && !receivedB -> receivedB = true };
		{ dest_run() } unless { !upB }
	:: upB && !knownB && stepB != ENDED && stepB != NONE -> { dest_run() } unless { !upB }
	:: atomic { !upB && !deadB -> upB = true }
	od
}

/* ---- Hypervisors and their stream ---- */

#ifndef MAY_SWITCH
active proctype Stream()
{
end:	do
	:: atomic { streaming && !written && hvA == RUNNING && hvB == WAITING -> hvA = SWITCHOVER }
	/* B has all that it needs; some bytes follow, and A may still fail */
	:: atomic { streaming && hvA == SWITCHOVER && hvB == WAITING -> hvB = LOADED }
	/* A has written all; it may not have arrived */
	:: atomic { streaming && hvA == SWITCHOVER -> hvA = COMPLETED; written = true }
	:: atomic { streaming && written && hvB == WAITING -> hvB = LOADED }
	/* The stream breaks: a source that has not completed goes on by itself, a destination that
	 * has not loaded ends */
	:: atomic { breaks > 0 && streaming -> breaks--; streaming = false }
	:: atomic { !streaming && hvA == SWITCHOVER -> hvA = RUNNING }
	:: atomic { !streaming && hvB == WAITING && (stepA == UNDO || stepA == ENDED ||
			stepA == HANDOVER || breaks < BREAKS || hypervisor_crashed) -> hvB = GONE }
	:: atomic { streaming && ((hvA == GONE && !written) || hvB == GONE) ->
		streaming = false }
	od
}
#endif

#include "handover_checks.pml"
