/* test.h - what every C test includes: cmocka, and where the test data lies.
 *
 * Tests run from the root of the checkout. Data outside it ("shared": real question sets, tokenizers, cases) is
 * optional: SHARED_OR_SKIP(path, "data/...") skips visibly, with the reason on stdout, where it is absent. */
#ifndef LATENT_TEST_H
#define LATENT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/mem.h"

/* Path of a file under $LATENT_SHARED, else ../shared; NULL if it is not there. Static memory: copy to keep. */
static inline const char *shared_file(const char *name)
{
    static char path[4096];
    const char *root = getenv("LATENT_SHARED");
    snprintf(path, sizeof path, "%s/%s", root ? root : "../shared", name);
    return access(path, R_OK) == 0 ? path : NULL;
}

#define SHARED_OR_SKIP(var, name)                                                                                      \
    char var[4096];                                                                                                    \
    do {                                                                                                               \
        const char *found_ = shared_file(name);                                                                        \
        if (!found_) {                                                                                                 \
            printf("# skip: shared data absent: %s\n", name);                                                          \
            skip();                                                                                                    \
        }                                                                                                              \
        snprintf(var, sizeof var, "%s", found_ ? found_ : "");                                                         \
    } while (0)

/* A fresh folder under the build tree, emptied by the system's temporary cleaner, not by the test: failures can be
 * looked at. */
static inline const char *test_tmpdir(void)
{
    static char dir[4096];
    if (!dir[0]) {
        snprintf(dir, sizeof dir, "%s/latent-test-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
        if (!mkdtemp(dir))
            abort();
    }
    return dir;
}

#define assert_ok(call)                                                                                                \
    do {                                                                                                               \
        struct err *e_ = &e;                                                                                           \
        if ((call) < 0)                                                                                                \
            fail_msg("%s: %s", #call, e_->msg);                                                                        \
    } while (0)

#endif
