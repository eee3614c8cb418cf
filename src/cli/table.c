#include "cli/cli.h"

#include "base/fs.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GAP 2
#define LAST_MIN 8 /* the last column is never cut below this */

struct row {
	bool loud;
	char **texts;
};

struct cli_table {
	size_t columns, rows_count;
	bool *right;
	struct row *rows; /* the first holds the titles */
};

/* Columns that a text takes: its UTF-8 characters. What drover shows has no wide ones. */
static size_t text_width(const char *text)
{
	size_t width = 0;

	for (; *text; text++)
		width += (*text & 0xc0) != 0x80;
	return width;
}

struct cli_table *cli_table_new(size_t columns, const char *const *titles)
{
	struct cli_table *t = calloc(1, sizeof(*t));

	if (!t)
		abort();
	t->columns = columns;
	t->right = calloc(columns, sizeof(*t->right));
	if (!t->right)
		abort();
	cli_table_add(t, false, titles);
	for (size_t i = 0; i < columns; i++) {
		t->right[i] = titles[i][0] == '>';
		if (t->right[i])
			memmove(t->rows[0].texts[i], t->rows[0].texts[i] + 1, strlen(titles[i]));
	}
	return t;
}

void cli_table_add(struct cli_table *t, bool loud, const char *const *texts)
{
	struct row *rows = reallocarray(t->rows, t->rows_count + 1, sizeof(*rows));
	struct row *row;

	if (!rows)
		abort();
	t->rows = rows;
	row = &t->rows[t->rows_count++];
	row->loud = loud;
	row->texts = calloc(t->columns, sizeof(*row->texts));
	if (!row->texts)
		abort();
	for (size_t i = 0; i < t->columns; i++) {
		row->texts[i] = fs_format("%s", texts[i]);
		for (char *c = row->texts[i]; *c; c++)
			if ((*c > 0 && *c < ' ') || *c == 0x7f)
				*c = '?';
	}
}

static size_t column_width(const struct cli_table *t, size_t column)
{
	size_t width = 0;

	for (size_t i = 0; i < t->rows_count; i++) {
		size_t w = text_width(t->rows[i].texts[column]);

		width = w > width ? w : width;
	}
	return width;
}

/* Bytes of the first `width` characters. */
static int bytes_of(const char *text, size_t width)
{
	const char *c = text;

	for (; *c; c++)
		if ((*c & 0xc0) != 0x80 && width-- == 0)
			break;
	return (int)(c - text);
}

/* Whether all columns from here on are empty: nothing is padded before a line's end. */
static bool rest_is_empty(const struct cli_table *t, const struct row *row, size_t column)
{
	while (column < t->columns && !*row->texts[column])
		column++;
	return column == t->columns;
}

static void print_row(
	const struct cli_table *t, const struct row *row, const size_t *widths, bool color)
{
	if (row->loud && color)
		fputs("\033[1;31m", stdout);
	for (size_t i = 0; !rest_is_empty(t, row, i); i++) {
		const char *text = row->texts[i];
		size_t width = text_width(text), shown = width < widths[i] ? width : widths[i];
		int pad = (int)(widths[i] - shown);
		int after = rest_is_empty(t, row, i + 1) ? 0 : (t->right[i] ? 0 : pad) + GAP;

		printf("%*s%.*s%*s", t->right[i] ? pad : 0, "", bytes_of(text, shown), text, after,
			"");
	}
	if (row->loud && color)
		fputs("\033[0m", stdout);
	putchar('\n');
}

void cli_table_print(struct cli_table *t)
{
	size_t *widths = calloc(t->columns, sizeof(*widths)), all = 0;
	size_t room = (size_t)cli_width(STDOUT_FILENO), last = t->columns - 1;

	if (!widths)
		abort();
	for (size_t i = 0; i < t->columns; i++) {
		widths[i] = column_width(t, i);
		all += widths[i] + (i < last ? GAP : 0);
	}
	if (room && all > room) {
		size_t over = all - room;
		size_t least = widths[last] < LAST_MIN ? widths[last] : LAST_MIN;

		widths[last] = widths[last] > least + over ? widths[last] - over : least;
	}
	for (size_t i = 0; i < t->rows_count; i++) {
		print_row(t, &t->rows[i], widths, cli_color(stdout));
		for (size_t j = 0; j < t->columns; j++)
			free(t->rows[i].texts[j]);
		free(t->rows[i].texts);
	}
	free(widths);
	free(t->rows);
	free(t->right);
	free(t);
}

int cli_print_list(
	struct cli *cli, const char *node, const struct cli_list *list, struct error **err)
{
	cleanup_json json_t *answer = cli_call(cli, "GET", node, list->path, NULL, err);
	struct cli_table *table;
	const json_t *entry;
	size_t i;

	if (!answer)
		return -1;
	if (cli->json) {
		cli_print_json(answer);
		return 0;
	}
	table = cli_table_new(list->columns, list->titles);
	json_array_foreach(json_object_get(answer, list->member), i, entry) list->add(table, entry);
	cli_table_print(table);
	return 0;
}
