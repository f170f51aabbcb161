/* template_value.h - what a chat template computes with. Private to lib/text.
 * Values live in the arena of one rendering; its limit bounds them. */
#ifndef LATENT_TEXT_TEMPLATE_VALUE_H
#define LATENT_TEXT_TEMPLATE_VALUE_H

#include "text/template.h"
#include "text/template_node.h"

enum val_kind {
    V_UNDEFINED, /* s: its name, for errors */
    V_NONE,
    V_BOOL,
    V_INT,
    V_BIG, /* a whole number beyond 64 bits: s, its digits */
    V_FLOAT,
    V_STR,
    V_LIST,
    V_TUPLE,
    V_DICT,
    V_NAMESPACE, /* a dict that can be set */
    V_LOOP,
    V_MACRO,
    V_METHOD, /* a function bound to a value */
    V_BUILTIN,
};

struct val {
    enum val_kind kind;
    union {
        int64_t i; /* V_BOOL, V_INT, V_BUILTIN */
        double f;
        struct str s;
        struct vlist *l;
        struct vdict *d;
        struct loop *loop;
        struct macro *macro;
        struct method *method;
    };
};

struct vlist {
    struct val *v;
    size_t n, cap;
};

struct vdict {
    struct val *key, *v;
    size_t n, cap;
};

struct loop {
    const struct vlist *items;
    size_t at;
    int depth;
    bool changed_set;
    struct vlist changed;
};

struct scope;

struct macro {
    const struct node *def; /* N_MACRO, or the N_CALL_BLOCK behind caller() */
    struct scope *scope;    /* where it was defined */
};

struct method {
    struct val of;
    struct str name;
};

struct var {
    struct str name;
    struct val v;
};

struct scope {
    struct scope *up;
    struct var *var;
    size_t n, cap;
};

/* Arguments of a call, filter or test. */
struct args {
    struct val *v;
    size_t n;
    struct var *kw;
    size_t n_kw;
};

struct render {
    const struct chat_template *t;
    struct arena arena;
    uint64_t steps;
    int depth, loop_depth;
    int line;
    struct buf *out;
    size_t out_floor; /* bytes of out before us */
    struct scope *scope;
    struct val block_input; /* of a filter block, until its first filter takes it */
    bool has_input;
    enum { RUN_ON, RUN_BREAK, RUN_CONTINUE } jump;
    long long date;
    struct err *e;
};

#define rfail(r, ...) (template_fail((r)->e, (r)->t, (r)->line, __VA_ARGS__), -1)
int spend(struct render *r, uint64_t steps); /* -1 when the limit is passed */
void *ralloc(struct render *r, size_t n);    /* NULL: the limit, and the error is set */

struct val val_none(void);
struct val val_bool(bool b);
struct val val_int(int64_t i);
int val_str(struct render *r, const char *s, size_t n, struct val *out); /* copies */
int val_list(struct render *r, enum val_kind kind, struct val *out);
int list_push(struct render *r, struct vlist *l, struct val v);
int val_dict(struct render *r, enum val_kind kind, struct val *out);
int dict_put(struct render *r, struct vdict *d, struct val key, struct val v);
const struct val *dict_find(const struct vdict *d, struct val key);
const struct val *dict_find_str(const struct vdict *d, struct str key);
int val_of_json(struct render *r, struct json j, struct val *out);

const char *val_type(struct val v); /* "text", "list" ... for errors */
bool val_true(struct val v);
bool val_equal(struct render *r, struct val a, struct val b, int depth);
int val_compare(struct render *r, struct val a, struct val b, int *out); /* < 0, 0, > 0 */
int val_text(struct render *r, struct val v, struct buf *out);           /* str() */
int val_repr(struct render *r, struct val v, struct buf *out, int depth);
int val_length(struct render *r, struct val v, int64_t *n);
int val_iterate(struct render *r, struct val v, struct vlist **out); /* members; a dict's keys, a text's characters */
int val_contains(struct render *r, struct val in, struct val what, bool *yes);
int val_json(struct render *r, struct val v, const struct args *a, struct val *out); /* tojson */
bool str_eq(struct str s, const char *w);
struct str val_key_text(struct val v); /* of a V_STR */

size_t str_chars(struct str s);                /* code points */
size_t str_offset(struct str s, size_t chars); /* bytes of the first so many */
bool py_space(uint32_t c);                     /* Python's str.isspace for one character */

/* template_filter.c, template_call.c */
int call_filter(struct render *r, const struct node *f, struct val in, const struct args *a, struct val *out);
int call_test(struct render *r, const struct node *t, struct val in, const struct args *a, bool *out);
int call_method(struct render *r, const struct method *m, const struct args *a, struct val *out);
bool has_method(struct val v, struct str name);
int call_builtin(struct render *r, int which, const struct args *a, struct val *out);
int builtin_index(struct str name); /* -1 */

/* template_eval.c */
int get_attr(struct render *r, struct val v, struct str name, struct val *out);
int get_item(struct render *r, struct val v, struct val key, struct val *out);
int arith(struct render *r, enum op op, struct val a, struct val b, struct val *out);

#endif
