/* fingerprint.c - one name for a model: xxh3-128 over everything that decides what it computes and how text goes in and
 * out. Each file is hashed once and remembered (io/hash.h). Renaming the folder changes nothing. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/hash.h"
#include "io/safetensors.h"

/* Configuration, tokenizer, stop ids, chat template; those that are there count, in this order. */
static const char *const small_files[] = {
    "config.json",          "generation_config.json",
    "tokenizer.json",       "tokenizer_config.json",
    "chat_template.jinja",  "vocab.json",
    "merges.txt",           "vocab.txt",
    "added_tokens.json",    "special_tokens_map.json",
    "dual_vocab_meta.json",
};

/* Adds "NAME HASH\n" to what the fingerprint is the hash of. */
static int add_file(struct buf *list, const char *path, struct err *e)
{
    struct hash128 h;
    char hex[HASH_HEX];
    if (hash_file(path, false, &h, e) < 0)
        return -1;
    hash_hex(h, hex);
    buf_printf(list, "%s %s\n", path_base(path), hex);
    return 0;
}

int model_fingerprint(const char *dir, char out[33], struct err *e)
{
    struct buf list = BUF_INIT;
    struct safetensors *st = NULL;
    int rc = 0;
    for (size_t i = 0; i < sizeof small_files / sizeof *small_files && rc == 0; i++) {
        char *path = path_join(dir, small_files[i]);
        if (file_exists(path))
            rc = add_file(&list, path, e);
        else if (i == 0)
            rc = err_set(e, "%s: not a model folder: it has no config.json", dir);
        free(path);
    }
    if (rc == 0)
        rc = safetensors_open_dir(&st, dir, e);
    for (size_t i = 0; rc == 0 && i < safetensors_files(st); i++)
        rc = add_file(&list, safetensors_file(st, i), e);
    if (rc == 0)
        hash_hex(hash_bytes(list.s, list.len), out);
    safetensors_close(st);
    buf_release(&list);
    return rc;
}
