#include "pool/settings.h"

#include <ctype.h>
#include <ini.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define SECTIONS_MAX 64
#define KEYS_MAX 32 /* keys of one section */
#define NAME_MAX_BYTES 32

struct parse {
	const char *what, *at, *end;
	unsigned flags;
	settings_key_fn *take;
	void *arg;
	struct error **err;
	int line;
	bool failed;
	bool indented;       /* the line that inih has now starts with white space */
	bool section_opened; /* its first key has not come yet */
	char sections[SECTIONS_MAX][NAME_MAX_BYTES];
	int sections_count;
	char keys[KEYS_MAX][NAME_MAX_BYTES]; /* of the current section */
	int keys_count;
};

static int fail(struct parse *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int fail(struct parse *p, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	p->failed = true;
	return error_set(p->err, ERROR_DEFINITION, 0, "%s, line %d: %s", p->what, p->line, text);
}

static bool is_control(char c)
{
	return ((unsigned char)c < 0x20 && c != '\t') || c == 0x7f;
}

/* What inih would pass over in silence in "[section] ...". */
static int check_section_line(struct parse *p, const char *line, size_t len)
{
	const char *close = memchr(line, ']', len);

	if (p->section_opened)
		return fail(p, "the section before this one has no key");
	if (!close)
		return fail(p, "a section is written [NAME]");
	for (const char *c = close + 1; c < line + len; c++) {
		if (*c == ';' || *c == '#')
			break;
		if (!isspace((unsigned char)*c))
			return fail(p, "nothing can follow the ] of a section on its line");
	}
	p->section_opened = true;
	p->keys_count = 0;
	return 0;
}

static int check_line(struct parse *p, const char *line, size_t len)
{
	size_t start = 0;

	for (size_t i = 0; i < len; i++)
		if (is_control(line[i]))
			return fail(p, "a control character (byte %zu) cannot stand here", i + 1);
	while (start < len && isspace((unsigned char)line[start]))
		start++;
	p->indented = start > 0;
	if (start == len || line[start] == ';' || line[start] == '#')
		return 0;
	if (p->indented && !(p->flags & SETTINGS_MULTILINE))
		return fail(p, "it starts with white space; keys start at the line's beginning");
	return line[start] == '[' && !p->indented ? check_section_line(p, line, len) : 0;
}

/* inih's fgets: one line, which must fit whole. */
static char *next_line(char *out, int size, void *arg)
{
	struct parse *p = arg;
	const char *newline;
	size_t len;

	if (p->failed || p->at == p->end)
		return NULL;
	p->line++;
	newline = memchr(p->at, '\n', (size_t)(p->end - p->at));
	len = (size_t)((newline ? newline : p->end) - p->at);
	/* inih fills its buffer again and again where it may grow: a line that leaves no room is
	 * taken for one that goes on. */
	if (size < 4 || len > (size_t)size - 3) {
		fail(p, "it is longer than %d bytes", size - 3);
		return NULL;
	}
	memcpy(out, p->at, len);
	p->at = newline ? newline + 1 : p->end;
	if (newline && len > 0 && out[len - 1] == '\r')
		len--;
	out[len] = 0;
	if (check_line(p, out, len) < 0)
		return NULL;
	return out;
}

static int add_name(struct parse *p, char names[][NAME_MAX_BYTES], int *count, int max,
	const char *name, const char *what)
{
	if (!*name || strlen(name) >= NAME_MAX_BYTES)
		return fail(p, "a %s has 1 to %d characters", what, NAME_MAX_BYTES - 1);
	for (int i = 0; i < *count; i++)
		if (!strcmp(names[i], name))
			return fail(p, "the %s \"%s\" comes twice", what, name);
	if (*count == max)
		return fail(p, "there are more than %d %ss", max, what);
	snprintf(names[(*count)++], NAME_MAX_BYTES, "%s", name);
	return 0;
}

static int check_names(struct parse *p, const char *section, const char *key)
{
	if (!*section && !p->section_opened)
		return fail(p, "the key \"%s\" comes before the first [section]", key);
	if (p->section_opened &&
		add_name(p, p->sections, &p->sections_count, SECTIONS_MAX, section, "section") < 0)
		return -1;
	p->section_opened = false;
	return add_name(p, p->keys, &p->keys_count, KEYS_MAX, key, "key");
}

/* inih's handler: 0 for an error. */
static int take_key(void *arg, const char *section, const char *key, const char *value)
{
	struct parse *p = arg;
	struct settings_key k = {.section = section,
		.key = key,
		.value = value,
		.line = p->line,
		.more = p->indented};

	if (p->failed)
		return 0;
	/* The first line of a section continues nothing, whatever it starts with. */
	if (k.more && p->section_opened)
		return fail(p, "it starts with white space; keys start at the line's beginning"), 0;
	if (!k.more && check_names(p, section, key) < 0)
		return 0;
	if (p->take(&k, p->arg, p->err) == 0)
		return 1;
	error_prefix(p->err, "%s, line %d", p->what, p->line);
	p->failed = true;
	return 0;
}

static void raise_limits(void)
{
#ifdef DROVER_INIH_LIMITS
	ini_use_stack = false;
	ini_initial_alloc = ini_max_line = SETTINGS_LINE_MAX;
#endif
}

int settings_read(const char *what, const char *text, size_t len, unsigned flags,
	settings_key_fn *take, void *arg, struct error **err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct parse p = {.what = what,
		.at = text,
		.end = text + len,
		.flags = flags,
		.take = take,
		.arg = arg,
		.err = err};
	int bad;

	pthread_once(&once, raise_limits);
	if (len >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
		p.at += 3;
	bad = ini_parse_stream(next_line, &p, take_key, &p);
	if (p.failed)
		return -1;
	if (bad > 0) {
		p.line = bad;
		return fail(&p, "it is neither [SECTION] nor KEY = VALUE");
	}
	if (bad < 0)
		return error_set(err, ERROR_FAILED, 0, "no memory to read %s", what);
	if (p.section_opened)
		return fail(&p, "the last section has no key");
	return 0;
}

bool settings_value_ok(const char *value)
{
	size_t len = strlen(value);

	if (len == 0 || len > SETTINGS_LINE_MAX - NAME_MAX_BYTES - 8)
		return false;
	if (isspace((unsigned char)value[0]) || isspace((unsigned char)value[len - 1]))
		return false;
	for (size_t i = 0; i < len; i++) {
		if (is_control(value[i]))
			return false;
		if (value[i] == ';' && (i == 0 || isspace((unsigned char)value[i - 1])))
			return false;
	}
	return true;
}
