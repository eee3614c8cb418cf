/*
 * What goes wrong, and what must hold all the same: included by handover.pml.
 */

/* ---- What goes wrong ---- */

inline lose_memory_B()
{
	knownB = false; readyB = false; handoverB = false; abortB = false; claimedB = false;
	resumedB = false; receivedB = false; may_have_runB = false;
#ifdef MAY_SWITCH
	switchedB = false
#endif
}

active proctype Faults()
{
	do
	:: atomic { crashes > 0 && upA -> crashes--; upA = false; question = NO_CALL;
		answer = NO_WORD; unanswered = false; droverd_crashed = true }
	:: atomic { crashes > 0 && upB -> crashes--; upB = false; lose_memory_B();
		droverd_crashed = true }
	:: atomic { crashes > 0 && hvA != GONE -> crashes--; HV_A_DIES;
		hypervisor_crashed = true }
	:: atomic { crashes > 0 && hvB != GONE -> crashes--; hvB = GONE;
		hypervisor_crashed = true }
	:: atomic { crashes > 0 && upA -> crashes--; upA = false; HV_A_DIES; question = NO_CALL;
		answer = NO_WORD; unanswered = false; hypervisor_crashed = true;
#ifdef NODES_STAY_DEAD
		deadA = true
#endif
		}
	:: atomic { crashes > 0 && upB -> crashes--; upB = false; hvB = GONE; lose_memory_B();
		hypervisor_crashed = true;
#ifdef NODES_STAY_DEAD
		deadB = true
#endif
		}
	:: atomic { outages > 0 && poolA -> outages--; poolA = false }
	:: atomic { outages > 0 && poolB -> outages--; poolB = false }
	:: atomic { !cancel && stepA != NONE -> cancel = true }
	:: atomic { crashes = 0; lost = 0; breaks = 0; outages = 0; break } /* nothing more */
	od
}

/* The pool comes back. */
active proctype Mends()
{
end:	do
	:: atomic { !poolA -> poolA = true }
	:: atomic { !poolB -> poolB = true }
	od
}

/* ---- What must hold ---- */

#define one_runs ((hvA == RUNNING) != (hvB == RUNNING))
/* Nothing runs, and the owner, or any node when there is none, can start it. */
#define can_be_started (hvA != RUNNING && hvB != RUNNING && \
	(owner[epoch] == NOBODY || (owner[epoch] == A && hvA == GONE && !deadA) || \
		(owner[epoch] == B && hvB == GONE && !deadB)))
/* Whoever runs it owns it. */
#define owner_runs ((hvA != RUNNING || MINE_A) && (hvB != RUNNING || MINE_B))

active proctype Observer()
{
	do
	:: two_run -> assert(false) /* never two */
#if REACH == 1
	:: doneA && doneB && hvB == RUNNING && hvA == GONE -> assert(false) /* a move */
#elif REACH == 2
	:: stepA == ENDED && !doneA && hvA == RUNNING && stepB == ENDED -> assert(false) /* undone */
#elif REACH == 3
	:: undecided -> assert(false)
#elif REACH == 4
	:: epoch == 3 && owner[3] == A && hvA == RUNNING -> assert(false) /* handed back */
#elif REACH == 5
	:: droverd_crashed && stepA == ENDED && doneB && hvB == RUNNING -> assert(false)
	/* a move in spite of a crash */
#elif REACH == 6
	:: epoch == 2 && owner[2] == A && stepB == CLAIM -> assert(false) /* B's claim comes late */
#elif REACH == 7
	:: stepA == ENDED && doneA && doneB && switchedB && wholeB -> assert(false)
#elif REACH == 8
	:: stepA == ENDED && !doneA && hvA == RUNNING && switchedB && !ranB -> assert(false)
#elif REACH == 9
	:: breaks < BREAKS && stepA == POSTCOPY && streaming && said == YES -> assert(false)
#endif
	/* Nothing can happen any more. */
	:: timeout ->
#ifdef MAY_SWITCH
		assert(A_WAITS_FOR_DEAD_B || stepA == ENDED || stepA == NONE || deadA);
		assert(B_WAITS_FOR_DEAD_A || stepB == ENDED || stepB == NONE || deadB);
		assert(hvB != RUNNING || wholeB || pages_died || given_up);
		assert(one_runs || hypervisor_crashed || given_up);
#else
		assert(stepA == ENDED || stepA == NONE || deadA);
		assert(stepB == ENDED || stepB == NONE || deadB);
		assert(one_runs || hypervisor_crashed);
#endif
		assert(one_runs || can_be_started || deadA || deadB);
		assert(owner_runs);
		break
	od
}
