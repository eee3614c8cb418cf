#pragma once
#include <stddef.h>
#define NFSSVC_DUMPMNTOPTS 0x10000000
struct nfscl_dumpmntopts {
	char *ndmnt_fname;
	size_t ndmnt_blen;
	void *ndmnt_buf;
};
/* These two are in unistd.h and stdlib.h. */
int nfssvc(int flags, void *arguments);
char *devname_r(unsigned long dev, unsigned type, char *buf, int len);
