/* Rotation tables of every scaling at real sizes, up to position 131,071, against transformers. Frequencies may differ
 * by a rounding (torch's powf is not correctly rounded), angles by as much times the position. */
#include "unit/model_testing.h"

#include "model/rope.h"

static const float *values(const struct safetensors *st, const char *what, int k, int list, int64_t *rows)
{
    char name[32];
    snprintf(name, sizeof name, "%s.%d.%d", what, k, list);
    const struct st_tensor *t = safetensors_find(st, name);
    if (!t)
        return NULL;
    *rows = t->shape[0];
    float *copy = xcalloc(t->elements, sizeof *copy);
    memcpy(copy, t->data, t->bytes);
    return copy;
}

static void check_list(const struct model_config *c, const struct safetensors *st, int k, int list,
                       const int32_t *positions)
{
    int64_t half, rows;
    const float *inv = values(st, "inv", k, list, &half), *cosines = values(st, "cos", k, list, &rows),
                *sines = values(st, "sin", k, list, &rows);
    float *got = xcalloc(3 * (size_t)half, sizeof *got), scale;
    assert_int_equal(half, c->rotary / 2);
    model_rope_frequencies(c, list, got, &scale);
    double worst = 0;
    int exact = 0;
    for (int j = 0; j < half; j++) {
        exact += got[j] == inv[j];
        if (!(fabsf(got[j] - inv[j]) <= 2.5e-7f * inv[j]))
            fail_msg("case %d list %d: frequency %d is %.9g, expected %.9g", k, list, j, (double)got[j],
                     (double)inv[j]);
    }
    for (int64_t r = 0; r < rows; r++) {
        float *co = got + half, *si = got + 2 * half;
        model_rope_rows(c, list, positions[r], positions[r] + 1, co, si);
        for (int j = 0; j < half; j++) {
            double allowed = 3e-7 + 2.5e-7 * positions[r] * (double)inv[j];
            double diff = fmax(fabs((double)co[j] - (double)cosines[r * half + j]),
                               fabs((double)si[j] - (double)sines[r * half + j]));
            worst = fmax(worst, diff);
            if (!(diff <= allowed))
                fail_msg("case %d list %d: position %d, dimension %d is off by %.3g", k, list, positions[r], j, diff);
        }
    }
    if (getenv("LATENT_TEST_VERBOSE"))
        printf("# case %d list %d: %d of %d frequencies equal, cosines off by %.2e at most\n", k, list, exact,
               (int)half, worst);
    free((void *)(size_t)inv);
    free((void *)(size_t)cosines);
    free((void *)(size_t)sines);
    free(got);
}

static void test_tables(void **state)
{
    (void)state;
    struct err e = { "" };
    struct safetensors *st;
    struct buf text = BUF_INIT;
    int n, k = 0;
    assert_ok(safetensors_open(&st, "tests/golden/rope/tables.safetensors", &e));
    assert_ok(file_read(&text, "tests/golden/rope/configs.jsonl", 0, &e));
    int32_t *positions = golden_ids(st, "positions", &n);
    char *dir = path_join(test_tmpdir(), "rope"), *path = path_join(dir, "config.json");
    assert_ok(file_mkdirs(dir, &e));
    for (char *at = text.s, *end; (end = strchr(at, '\n')); at = end + 1, k++) {
        struct model_config c;
        assert_ok(file_write_atomic(path, at, (size_t)(end - at), &e));
        assert_ok(model_config_read(&c, dir, &e));
        for (int list = 0; list <= (int)c.longrope; list++)
            check_list(&c, st, k, list, positions);
        model_config_release(&c);
    }
    assert_int_equal(k, 6);
    safetensors_close(st);
    buf_release(&text);
    free(positions);
    free(path);
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_tables) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
