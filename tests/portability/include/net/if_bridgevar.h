#pragma once
#include <net/if.h>
enum { BRDGADD = 0 };
struct ifbreq {
	char ifbr_ifsname[IFNAMSIZ];
};
