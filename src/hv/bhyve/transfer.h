/*
 * The files of a suspended guest as one stream, from one droverd through the data movers to another
 * (docs/wire-bhyve.md): a header, and then the files. Used by drover-wire, too.
 */
#ifndef DROVER_HV_BHYVE_TRANSFER_H
#define DROVER_HV_BHYVE_TRANSFER_H

/* "DRVBHYV" and the version of the format. */
#define BHYVE_TRANSFER_MAGIC \
	{ \
		'D', 'R', 'V', 'B', 'H', 'Y', 'V', 1 \
	}
#define BHYVE_TRANSFER_MAGIC_SIZE 8u
/* The magic, and the lengths of FILE, FILE.kern and FILE.meta in bytes, 8 octets each, big-endian.
 */
#define BHYVE_TRANSFER_HEADER 32u

#endif
