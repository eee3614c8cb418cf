#include "wire/sandbox.h"

int sandbox_enter(bool unix_sockets, struct error **err)
{
	(void)unix_sockets;
	(void)err;
	return 0;
}
