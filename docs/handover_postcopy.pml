/*
 * What post-copy adds to handover.pml, which includes this where MAY_SWITCH is defined
 * (options.postcopy). Names are those of src/migrate/postcopy.c and dest_resume.c.
 *
 * A's hypervisor: PAUSED, its guest has been paused by droverd, the stream goes on or has failed;
 * SWITCHING, told to switch to post-copy, which it does, or completes the ordinary way;
 * IN_POSTCOPY, it serves pages, or waits for another lane where the stream is broken ("paused");
 * STUCK, the switch failed and its migration never ends (QEMU 10.0). From PAUSED on its guest goes
 * on only if droverd makes it. B's: LOADED, or RUNNING, and not wholeB: pages are still on A.
 *
 * Broken variants, in which spin must find an error:
 *   END_AT_RUNNING       A ends its hypervisor when B says that the guest runs
 *   TAKE_BACK_UNCLAIMED  A goes on, without a claim, when B is not heard after the switch
 *   FOLLOW_A_CLAIM       A takes B's claim for B's guest running
 *   FORGET_LATER_OWNERS  A does not look for an owner after B
 *   FORGET_RAN           B, started again in post-copy without its hypervisor, says "ended"
 *   TELL_ONCE            A tells B once that pages are lost, and B does not ask
 *   MEND_WHOLE           A asks for a new lane though B says that it has all pages
 * ACKNOWLEDGES: A's hypervisor is SWITCHING until it hears that B's has loaded what it begins with
 * (QEMU from 10.1 on). Errors are known there (docs/handover.md).
 * REACH: 7, a move by post-copy; 8, a switch that is taken back; 9, a new lane.
 *   NO_LANE_FOR_HANGING  B makes no new lane while its hypervisor hangs
 *   NO_LANE_BEFORE_WORD  A makes no new lane before it knows who runs the guest: it asks for ever
 *   WAIT_FOR_HANGING     A, its hypervisor dead, waits for a B that hangs for its pages
 *   FORGET_READY         B, started again, goes on with what was never ready, and says of nothing that
 *                        it is
 * GIVE_UPS: a user gives an interrupted post-copy up, on one of the sides.
 */
#ifndef GIVE_UPS
#define GIVE_UPS 0
#endif

bool wholeB;       /* B's hypervisor has all pages */
bool pages_died;   /* A's hypervisor has died, or its node, before they had all gone */
bool switchedB;    /* migration_in_postcopy(), as B's droverd has last seen it */
bool ranB_closed;  /* B's row is closed at POSTCOPY: the guest has run there for good */
bool given_up;     /* by a user */
bool hangsB;       /* B's hypervisor does not answer the order to let the guest run: for a page */
byte gives = GIVE_UPS;

#define HV_A_DIES pages_died = !wholeB; hvA = GONE
/* What must hold where A ends its hypervisor. */
#define NEEDED (MINE_B && epoch == 2 && (hvB == LOADED || hvB == RUNNING) && !wholeB)
#define NOT_NEEDED assert(hvA == GONE || !NEEDED || given_up); assert(hvA == GONE || !MINE_A)
/* Until the node is back, or a user gives up. */
#define A_WAITS_FOR_DEAD_B (deadB && stepA == POSTCOPY)
#define B_WAITS_FOR_DEAD_A (deadA && (hvB == RUNNING || hangsB) && !wholeB)
/* A call that is answered when the guest runs. */
#define TIMES_OUT(what) (hangsB && what == HANDOVER_CALL)
#ifndef WAIT_FOR_HANGING
#define NEVER_RUNS (stepA == SWITCH && hvA == GONE && hangsB)
#else
#define NEVER_RUNS false
#endif

/* ---- A ---- */

inline source_switch()
{
	if :: cancel -> goto settle :: else fi; /* source_pass_cancel() */
	stepA = SWITCH;
	/* hv_vm_pause(): one that has paused its guest itself meanwhile takes no notice */
	atomic { if :: hvA == RUNNING -> hvA = PAUSED :: else fi };
	/* hv_vm_migrate_postcopy() */
	atomic { if :: hvA == PAUSED && streaming -> hvA = SWITCHING :: else fi };
	/* stream(): an order without an answer, or a stall, ends it too */
	if
	:: hvA == COMPLETED
	:: hvA == IN_POSTCOPY -> goto handover
	:: hvA != COMPLETED && hvA != IN_POSTCOPY -> goto settle
	fi
}

/* finish_broken() tells B, which may wait for ever. */
inline tell_broken()
{
#ifdef TELL_ONCE
	call(ABORT)
#else
	do
	:: call(ABORT); if :: said != NO_WORD || deadB -> break :: said == NO_WORD && !deadB fi
	od
#endif
}

inline renew_lane()
{
	call(RECOVER);
	atomic {
		if
		:: said == YES && hvA == IN_POSTCOPY && (hvB == RUNNING || hangsB) && !wholeB ->
			streaming = true
		:: else
		fi }
}

/* source_mend_lane() */
inline mend_lane()
{
	if
#ifndef NO_LANE_BEFORE_WORD
	:: hvA == IN_POSTCOPY && !streaming -> renew_lane()
#endif
	:: else
	fi
}

/* The lane is gone: a new one, or what B says of its copy, or the pool. */
inline mend()
{
	renew_lane();
	if
	:: said == YES
	:: said != YES ->
		call(HANDOVER_CALL); /* ask_copy() */
		if
#ifndef MEND_WHOLE
		:: said == WHOLE -> break
#endif
		:: said == RAN -> brokenA = true; break
		:: said != WHOLE && said != RAN ->
			if
			:: poolA && epoch > 2 -> brokenA = true; break
			:: !poolA || epoch == 2
			fi
		fi;
		/* Two seconds, and again when it can be decided. */
end_waits:	(hvA == GONE || (said == NO_WORD && !deadB) || (!upB && !deadB) || resumedB ||
			(stepB == ENDED && ranB_closed) ||
			(stepB == ENDED && doneB) ||
			(poolA && epoch > 2))
	fi
}

/* source_follow(); brokenA: B's copy will never be whole. */
inline source_follow()
{
	stepA = POSTCOPY;
	verdict = END;
	do
#ifdef END_AT_RUNNING
	:: break
#endif
	:: hvA == COMPLETED -> break
	:: hvA == GONE -> /* copy_died() */
		call(HANDOVER_CALL);
		if
		:: said == WHOLE -> break
		:: said != WHOLE -> brokenA = true; break
		fi
	:: hvA == IN_POSTCOPY && !streaming ->
		if
		:: gives > 0 -> gives--; given_up = true; brokenA = true; break
		:: true -> mend()
		fi
	/* pages_over(): the last page has gone, and its confirmation has not come */
	:: hvA == IN_POSTCOPY && !streaming && wholeB ->
		call(HANDOVER_CALL);
		if
		:: said == WHOLE -> break
		:: said != WHOLE && upB && !(stepB == ENDED && !doneB) -> (stepB == ENDED || !upB)
		:: said != WHOLE && (!upB || (stepB == ENDED && !doneB)) -> brokenA = true; break
		fi
	od;
	if :: brokenA -> tell_broken() :: else fi
}

/* Once the pool has a later epoch than A's (verdict_of_pool()). */
inline verdict_of_pool()
{
	if
	:: MINE_A -> verdict = UNDO; break
#ifdef FOLLOW_A_CLAIM
	:: MINE_B && epoch == 2 -> source_follow(); break
#else
	/* It may be giving the VM back, or be about to */
	:: MINE_B && epoch == 2 && said == NO_WORD && deadB -> source_follow(); break
	:: MINE_B && epoch == 2 && !deadB
#endif
#ifndef FORGET_LATER_OWNERS
	:: !MINE_A && epoch > 2 -> brokenA = true; tell_broken(); verdict = END; break
#endif
	fi
}

/* take_back() */
inline take_back()
{
	toldA = NOT_KNOWN;
#ifdef TAKE_BACK_UNCLAIMED
	verdict = UNDO; break;
#endif
	if
	:: poolA -> toldA = NOT_OWNER;
		if :: epoch == 1 -> claim_or_not(2, A, poolA, toldA) :: else fi
	:: !poolA
	fi;
	if
	:: toldA != NOT_KNOWN -> verdict_of_pool()
	:: else
	fi
}

/* settle_switched(): B is told again, then the pool is asked. */
inline settle_switched()
{
	mend_lane();
	call(HANDOVER_CALL);
	if
	:: SAID_RUNNING -> source_follow(); break
	:: said == ENDED_WORD -> take_back()
	:: !SAID_RUNNING && said != ENDED_WORD ->
		if
		:: poolA && epoch > 1 -> verdict_of_pool()
		:: poolA && epoch == 1 && said == NO_WORD -> take_back() /* silent for long */
		:: (!poolA || epoch == 1) && !deadB
		fi
	fi;
	undecided = true;
	/* Two seconds, and again when it can be decided. */
	(hvA != IN_POSTCOPY || (said == NO_WORD && !deadB) || resumedB || !upB ||
		(stepB == ENDED && (doneB || ranB_closed)) || (hangsB && !streaming) ||
		(poolA && (stepB == ENDED || epoch > 2 || MINE_A)))
}

inline source_settle_switched()
{
	if
	:: stepA == POSTCOPY -> source_follow()
	:: else ->
		do
		:: /* hv_vm_migrate_cancel(): tears the stream where nothing else helps */
		   if
		   :: atomic { hvA == SWITCHOVER -> streaming = false; hvA = RUNNING }
		   :: atomic { hvA == RUNNING || hvA == PAUSED || hvA == SWITCHING ->
			streaming = false }
		   :: hvA == GONE || hvA == COMPLETED || hvA == STUCK || hvA == IN_POSTCOPY
		   fi;
		   if
		   :: hvA != IN_POSTCOPY -> /* settle_unswitched(); it may not have ended in time */
			settle_ownership();
			if
			:: verdict == END && (hvA == IN_POSTCOPY ||
				(hvA == GONE && stepA == SWITCH)) -> source_follow() /* is_needed() */
			:: else
			fi;
			break
		   :: hvA == IN_POSTCOPY -> settle_switched()
		   fi
		od
	fi
}

/* ---- B ---- */

/* Whether a copy of an earlier droverd may have been switched: A begins with no other. */
#ifdef FORGET_READY
#define WAS_READY true
#define SAYS_READY false
#else
#define WAS_READY (stepB != PREPARE)
#define SAYS_READY true
#endif
#define WITHOUT_WORD switchedB /* WORD_MS have passed */

/* dest_source_has_failed(): B asks now and then */
#ifdef TELL_ONCE
#define A_HAS_FAILED false
#else
#define A_HAS_FAILED (upA && stepA == ENDED && !doneA)
#endif

/* let_run() where a page is missing: sit_out_hang(), and dest_wait_answer() after a restart. What is
 * given up then is nobody's, for the order may be carried out yet. */
inline sit_out_hang(worked)
{
	may_have_runB = true;
end_hangs_B:
	if
	:: atomic { hvB == LOADED && (streaming || wholeB) ->
		assert(MINE_B);
		hangsB = false; hvB = RUNNING; ranB = true; worked = true }
	:: atomic { hvB == GONE -> hangsB = false; worked = false }
	:: atomic { hvB == LOADED && (A_HAS_FAILED || gives > 0) ->
		if
		:: A_HAS_FAILED
		:: gives > 0 -> gives--; given_up = true
		fi;
		hangsB = false; worked = false }
	fi
}

/* follow(), from note_interruption() on where the pages are given up */
inline follow_B()
{
	stepB = POSTCOPY;
end_waits_B:
	if
	:: atomic { hvB == RUNNING && wholeB -> stepB = ENDED; doneB = true }
	:: atomic { hvB == GONE -> stepB = ENDED; doneB = false; ranB_closed = true }
	:: atomic { hvB == RUNNING && !wholeB && !streaming && (abortB || gives > 0 || A_HAS_FAILED) ->
		if
		:: abortB || A_HAS_FAILED
		:: gives > 0 -> gives--; given_up = true
		fi;
		stepB = ENDED; doneB = false; ranB_closed = true }
	fi
}

/* renew_lane() answers for as long as follow() runs; an old lane is ended. */
inline migrations_renew_lane()
{
	if
	:: knownB && stepB == POSTCOPY && resumedB && hvB == RUNNING && !wholeB ->
		streaming = false; answer = YES
#ifndef NO_LANE_FOR_HANGING
	:: knownB && hangsB && hvB == LOADED && !wholeB -> streaming = false; answer = YES
#endif
	:: else -> answer = FAILED
	fi
}

/* ---- Hypervisors and their stream, with a return path ---- */

#define ENDS_ORDINARILY (hvA == SWITCHOVER || hvA == PAUSED || hvA == SWITCHING)

active proctype Stream()
{
end:	do
	:: atomic { streaming && hvA == RUNNING && hvB == WAITING -> hvA = SWITCHOVER }
	:: atomic { streaming && ENDS_ORDINARILY && hvB == WAITING -> hvB = LOADED; wholeB = true }
	:: atomic { streaming && ENDS_ORDINARILY && hvB == LOADED && wholeB -> hvA = COMPLETED }
	/* The switch: B can begin, and A's hypervisor learns of it */
#ifdef ACKNOWLEDGES
	:: atomic { streaming && hvA == SWITCHING && hvB == LOADED && !wholeB -> hvA = IN_POSTCOPY }
#else
	:: atomic { streaming && hvA == SWITCHING && !wholeB -> hvA = IN_POSTCOPY }
#endif
#ifdef ACKNOWLEDGES
	:: atomic { streaming && hvA == SWITCHING && hvB == WAITING -> hvB = LOADED }
#endif
	:: atomic { streaming && hvA == IN_POSTCOPY && hvB == WAITING -> hvB = LOADED }
	/* The last page, and that it has come */
	:: atomic { streaming && hvA == IN_POSTCOPY && (hvB == LOADED || hvB == RUNNING) &&
			!wholeB -> wholeB = true }
	:: atomic { streaming && hvA == IN_POSTCOPY && wholeB -> hvA = COMPLETED }
	/* It breaks: A's hypervisor lets a guest go on that it has paused itself */
	:: atomic { breaks > 0 && streaming -> breaks--; streaming = false }
	:: atomic { streaming && (hvB == GONE || (hvA == GONE)) -> streaming = false }
	:: atomic { !streaming && hvA == SWITCHOVER -> hvA = RUNNING }
	:: atomic { !streaming && hvA == SWITCHING -> hvA = PAUSED }
	:: atomic { !streaming && hvA == SWITCHING -> hvA = STUCK }
	:: atomic { !streaming && hvA == SWITCHING && !wholeB -> hvA = IN_POSTCOPY }
	:: atomic { !streaming && hvB == WAITING && (stepA == UNDO || stepA == ENDED ||
			stepA == HANDOVER || stepA == SWITCH || breaks < BREAKS ||
			hypervisor_crashed) -> hvB = GONE }
	od
}
