#pragma once
#include_next <net/if.h>
#include <stddef.h>
struct ifdrv {
	char ifd_name[IFNAMSIZ];
	unsigned long ifd_cmd;
	size_t ifd_len;
	void *ifd_data;
};
