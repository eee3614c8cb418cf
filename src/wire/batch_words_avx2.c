#include "wire/batch_words_compare.h"

unsigned words_compare_avx2(const uint8_t *old, const uint8_t *new, uint8_t *bitmap)
{
	return compare_words(old, new, bitmap);
}
