#pragma once
enum { IFT_BRIDGE = 0xd1 };
