#include "hv/hv.h"

const char *hv_state_name(enum hv_state state)
{
	static const char *const names[] = {
		[HV_RUNNING] = "running",
		[HV_STARTING] = "starting",
		[HV_PAUSED] = "paused",
		[HV_INCOMING] = "incoming",
		[HV_MIGRATED] = "migrated",
		[HV_OFF] = "off",
		[HV_FAILED] = "failed",
		[HV_SILENT] = "silent",
		[HV_GONE] = "gone",
	};

	return (size_t)state < sizeof(names) / sizeof(*names) ? names[state] : "unknown";
}

const char *hv_migrate_phase_name(enum hv_migrate_phase phase)
{
	static const char *const names[] = {
		[HV_MIGRATE_NONE] = "none",
		[HV_MIGRATE_SETUP] = "setup",
		[HV_MIGRATE_ACTIVE] = "active",
		[HV_MIGRATE_SWITCHOVER] = "switchover",
		[HV_MIGRATE_POSTCOPY] = "post-copy",
		[HV_MIGRATE_POSTCOPY_PAUSED] = "post-copy, paused",
		[HV_MIGRATE_COMPLETED] = "completed",
		[HV_MIGRATE_FAILED] = "failed",
		[HV_MIGRATE_CANCELLED] = "cancelled",
	};

	return (size_t)phase < sizeof(names) / sizeof(*names) ? names[phase] : "unknown";
}
