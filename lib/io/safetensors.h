/* safetensors.h - tensors as they lie on disk: mapped for reading, streamed for writing.
 *
 *     struct safetensors *st;
 *     safetensors_open_dir(&st, "path/to/checkpoint", &e);
 *     const struct st_tensor *t = safetensors_find(st, "model.norm.weight");
 *     ... t->data is valid until safetensors_close(st), with no alignment promised ...
 *
 * Everything a header says is checked at open (formats specification, section 2): the header's length, every tensor's
 * offsets against its shape and dtype, no hole, no overlap, no name twice, the last byte is the end of the file. What
 * was opened can then be trusted. Each refusal names the file and the tensor.
 *
 * The writer makes the bytes that the Python package makes: header sorted by dtype, then name, padded to 8 bytes,
 * metadata {"format":"pt"}. A file appears whole or not at all. */
#ifndef LATENT_SAFETENSORS_H
#define LATENT_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

/* In the order of the safetensors package, which sorts a file's tensors by it, largest first. The sub-byte kinds are
 * read and passed over. */
enum st_dtype {
    ST_BOOL,
    ST_F4,
    ST_F6_E2M3,
    ST_F6_E3M2,
    ST_U8,
    ST_I8,
    ST_F8_E5M2,
    ST_F8_E4M3,
    ST_F8_E8M0,
    ST_I16,
    ST_U16,
    ST_F16,
    ST_BF16,
    ST_I32,
    ST_U32,
    ST_F32,
    ST_C64,
    ST_F64,
    ST_I64,
    ST_U64,
    ST_DTYPES,
};
const char *st_dtype_name(enum st_dtype t); /* "BF16" */
int st_dtype_bits(enum st_dtype t);         /* of one element */

enum { ST_MAX_RANK = 8, ST_SHAPE_TEXT = 192 };

struct st_tensor {
    const char *name; /* owned by the reader */
    enum st_dtype dtype;
    int rank;
    int64_t shape[ST_MAX_RANK];
    uint64_t elements; /* product of the shape */
    uint64_t bytes;
    const void *data; /* in the mapping, unaligned */
    int file;         /* index for safetensors_file */
};

/* "[600, 32]" into text[ST_SHAPE_TEXT], which is returned. */
const char *st_shape_text(const struct st_tensor *t, char *text);

struct safetensors;

/* One file. */
int safetensors_open(struct safetensors **out, const char *path, struct err *e);

/* The weights of a checkpoint folder: model.safetensors if it is there, else model.safetensors.index.json and the
 * shards it names. Every tensor of the index must lie in the shard that the index says. */
int safetensors_open_dir(struct safetensors **out, const char *dir, struct err *e);
void safetensors_close(struct safetensors *st); /* NULL is fine */

size_t safetensors_count(const struct safetensors *st);
const struct st_tensor *safetensors_at(const struct safetensors *st, size_t i);           /* sorted by name */
const struct st_tensor *safetensors_find(const struct safetensors *st, const char *name); /* NULL: not there */

size_t safetensors_files(const struct safetensors *st);
const char *safetensors_file(const struct safetensors *st, size_t i); /* path */

/* Things that do no harm here and may elsewhere, each a sentence: shards beside model.safetensors (vLLM would load
 * them), tensors that the index does not name, a wrong total size in it. NULL behind the last. */
const char *safetensors_note(const struct safetensors *st, size_t i);

/* Small tensors here and there will be read (scattered), or everything in order: without the first, each touch of a
 * large file may read megabytes around it. */
void safetensors_advise(const struct safetensors *st, bool scattered);

/* ---- writing ---- */
struct st_entry {
    const char *name;
    enum st_dtype dtype;
    int rank;
    int64_t shape[ST_MAX_RANK];
};

struct st_writer;

/* Starts path with these tensors; the n entries are copied. Tensors may be written in any order. */
int st_writer_open(struct st_writer **out, const char *path, const struct st_entry *entries, size_t n, struct err *e);

/* Starts a folder's weights: model.safetensors if all tensors together have at most shard_bytes (0: no limit), else
 * shards filled in the order of the entries (a model's order, as transformers does it) and the index. dir must exist.
 */
int st_writer_open_dir(struct st_writer **out, const char *dir, const struct st_entry *entries, size_t n,
                       uint64_t shard_bytes, struct err *e);

/* The next n bytes of tensor i (index into entries); called until the tensor is whole. */
int st_writer_put(struct st_writer *w, size_t i, const void *bytes, uint64_t n, struct err *e);

/* Every tensor must be whole. fsync, rename; for shards the index comes last. */
int st_writer_commit(struct st_writer *w, struct err *e);
void st_writer_close(struct st_writer *w); /* removes what was not committed; NULL is fine */

/* All at once: data[i] holds the bytes of entry i. */
int safetensors_write(const char *path, const struct st_entry *entries, const void *const *data, size_t n,
                      struct err *e);

#endif
