/* answer_node.c - making the trees of the answer checker: nodes in its arena, numbers in its pool, and a count of both.
 */
#include <stdlib.h>
#include <string.h>

#include "task/answer_private.h"

void limit_hit(struct answer_checker *c, const char *what)
{
    if (!c->limit)
        c->limit = what;
}

fmpq *pool_q(struct answer_checker *c)
{
    struct q_chunk *k = c->chunks;
    if (!k || k->used == POOL_CHUNK) {
        struct q_chunk *fresh = c->spare;
        if (fresh)
            c->spare = fresh->next;
        else
            fresh = xmalloc(sizeof *fresh);
        fresh->used = 0;
        fresh->next = k;
        c->chunks = k = fresh;
    }
    fmpq *q = &k->q[k->used++];
    fmpq_init(q);
    return q;
}

struct node *node_new(struct answer_checker *c, enum kind kind, int kids)
{
    struct node *n = arena_zalloc(&c->arena, sizeof *n + (size_t)kids * sizeof *n->kid);
    if (++c->nodes > MAX_NODES)
        limit_hit(c, "limit:size");
    n->kind = kind;
    n->n = kids;
    n->kid = (struct node **)(void *)(n + 1);
    return n;
}

struct node *node_q(struct answer_checker *c, const fmpq_t q)
{
    struct node *n = node_new(c, N_NUM, 0);
    n->q = pool_q(c);
    fmpq_set(n->q, q);
    return n;
}

struct node *node_num(struct answer_checker *c, slong v)
{
    struct node *n = node_new(c, N_NUM, 0);
    n->q = pool_q(c);
    fmpq_set_si(n->q, v, 1);
    return n;
}

struct node *node_2(struct answer_checker *c, enum kind kind, struct node *a, struct node *b)
{
    struct node *n = node_new(c, kind, 2);
    n->kid[0] = a;
    n->kid[1] = b;
    return n;
}

struct node *node_name(struct answer_checker *c, enum kind kind, const char *name, int kids)
{
    struct node *n = node_new(c, kind, kids);
    n->name = name;
    return n;
}

struct node *node_neg(struct answer_checker *c, struct node *a)
{
    if (a->kind == N_PCT || a->kind == N_DEG || a->kind == N_QTY) { /* -40% is (-40)% */
        struct node *m = node_name(c, a->kind, a->name, 1);
        m->kid[0] = node_neg(c, a->kid[0]);
        return m;
    }
    if (a->kind == N_NUM) {
        struct node *n = node_new(c, N_NUM, 0);
        *n = *a;
        n->q = pool_q(c);
        fmpq_neg(n->q, a->q);
        n->group = false;
        return n;
    }
    return node_2(c, N_MUL, node_num(c, -1), a);
}
