/* record_bench.c - how fast records are read, split, and copied with one member replaced, on one thread.
 * usage: record_bench [FILE.jsonl]; without a file, samples like collect's are made up. Outside the clock: making the
 * input. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "io/record.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static const char *make_input(void)
{
    static char path[] = "/tmp/record_bench_XXXXXX";
    int fd = mkstemp(path);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    for (int i = 0; f && i < 60000; i++) {
        fprintf(f,
                "{\"benchmark\": \"math\", \"source_id\": \"math_train_%d_s%d\", \"question\": \"Find $x$ with "
                "\\\\frac{1}{x} = %d"
                ".\", \"gold_answer\": \"%d\", \"response_text\": \"",
                i / 8, i % 8, i, i);
        for (int k = 0; k < 40; k++)
            fprintf(
                f,
                "Step %d: we multiply both sides by $x$ and divide.\\nSo \\\\(x = %d\\\\), which is \\\"positive\\\". ",
                k, i);
        fprintf(f, "\", \"is_correct\": true, \"reasoning_token_count\": %d, \"response_token_count\": %d}\n", i,
                i + 7);
    }
    if (f)
        fclose(f);
    return path;
}

int main(int argc, char **argv)
{
    const char *file = argc > 1 ? argv[1] : make_input();
    struct err e = { "" };
    double best[2] = { 1e9, 1e9 };
    size_t bytes = 0;
    struct buf out = BUF_INIT;
    for (int round = 0; round < 5; round++)
        for (int copy = 0; copy < 2; copy++) {
            struct rec_reader *in;
            struct rec r;
            int rc;
            double t = now();
            bytes = 0;
            if (rec_open(&in, &file, 1, &e) < 0)
                return fprintf(stderr, "record_bench: %s\n", e.msg), 1;
            while ((rc = rec_read(in, &r, &e)) > 0) {
                bytes += r.len + 1;
                if (!copy)
                    continue;
                buf_reset(&out);
                rec_rewrite(&out, &r, &(struct rec_change){ "is_correct", "false" }, 1);
            }
            rec_close(in);
            if (rc < 0)
                return fprintf(stderr, "record_bench: %s\n", e.msg), 1;
            t = now() - t;
            best[copy] = t < best[copy] ? t : best[copy];
        }
    printf("records, 1 thread, %.0f MB: read and split %.0f MB/s, with one member replaced %.0f MB/s (gate 300)\n",
           (double)bytes / 1e6, (double)bytes / best[0] / 1e6, (double)bytes / best[1] / 1e6);
    buf_release(&out);
    if (argc < 2)
        unlink(file);
    return 0;
}
