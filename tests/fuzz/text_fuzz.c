/* text_fuzz - any bytes as text for tokenizers of every kind, which must agree with themselves: with and without
 * offsets, whole and streamed decoding, offsets in order and within the text. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int cond)
{
    if (!cond)
        abort();
}

#define ADDED                                                                                                          \
    "[{\"id\":900,\"content\":\"<|x|>\",\"special\":true},{\"id\":901,\"content\":\"<m>\",\"lstrip\":true,\"rstrip\":" \
    "true},"                                                                                                           \
    "{\"id\":902,\"content\":\"\xc3\xa9w\",\"single_word\":true,\"normalized\":true}]"
#define SPLIT                                                                                                          \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "                             \
    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|"                                                                         \
    "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"

static struct tokenizer *tok[4];

static void open_all(void)
{
    struct err e = { "" };
    struct buf letters = BUF_INIT, pieces = BUF_INIT, b = BUF_INIT;
    for (int i = 0, next = 0x100; i < 256; i++) {
        bool plain = (i >= 0x21 && i <= 0x7e) || (i >= 0xa1 && i != 0xad);
        char c[4];
        int k = utf8_encode((uint32_t)(plain ? i : next++), c);
        buf_puts(&letters, i ? "," : "");
        json_put_str(&letters, c, (size_t)k);
        buf_printf(&letters, ":%d", i);
        buf_printf(&pieces, ",\"<0x%02X>\":%d", i, 300 + i);
    }
    /* byte-level BPE */
    buf_printf(&b,
               "{\"added_tokens\":" ADDED
               ",\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{"
               "\"type\":\"Split\",\"pattern\":{\"Regex\":\"" SPLIT
               "\"},\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\",\"add_prefix_space\":"
               "false,\"use_regex\":false}]},\"post_processor\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":"
               "\"ByteLevel\"},\"model\":{\"type\":"
               "\"BPE\",\"vocab\":{%s,\"aa\":256,\"aaa\":257,\"ab\":258},\"merges\":[\"a a\",\"aa a\",\"a b\"]}}",
               letters.s);
    must(tokenizer_open_json(&tok[0], b.s, b.len, "bpe", &e) == 0);
    buf_reset(&b);
    /* SentencePiece BPE with byte fallback */
    buf_printf(
        &b,
        "{\"added_tokens\":" ADDED
        ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},"
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\" "
        "\"},\"content\":\"\xe2\x96\x81\"}]},\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{"
        "\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},\"content\":\" "
        "\"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{"
        "\"type\":\"Strip\",\"content\":\" "
        "\",\"start\":1,\"stop\":0}]},\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"byte_fallback\":true,"
        "\"fuse_unk\":true,\"vocab\":{\"<unk>\":0,\"\xe2\x96\x81\":1,\"a\":2,\"\xe2\x96\x81"
        "a\":3,\"aa\":4%s},\"merges\":[[\"\xe2\x96\x81\",\"a\"],[\"a\",\"a\"]]}}",
        pieces.s);
    must(tokenizer_open_json(&tok[1], b.s, b.len, "sp", &e) == 0);
    buf_reset(&b);
    buf_puts(&b,
             "{\"added_tokens\":" ADDED ",\"normalizer\":{\"type\":\"NFKC\"},\"pre_tokenizer\":{\"type\":\"Metaspace\","
             "\"replacement\":\"\xe2\x96\x81\","
             "\"prepend_scheme\":\"first\"},\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\"},"
             "\"model\":{\"type\":\"Unigram\","
             "\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"\xe2\x96\x81\",-2],[\"a\",-1.5],[\"aa\",-2.5],[\"\xe2\x96\x81"
             "a\",-3],[\"\xc3\xa9\",-4]]}}");
    must(tokenizer_open_json(&tok[2], b.s, b.len, "unigram", &e) == 0);
    buf_reset(&b);
    buf_puts(&b, "{\"added_tokens\":" ADDED
                 ",\"normalizer\":{\"type\":\"BertNormalizer\"},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"
                 "\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"s\",1],\"cls\":[\"c\",2]},\"decoder\":{"
                 "\"type\":\"WordPiece\"},\"model\":{"
                 "\"type\":\"WordPiece\",\"unk_token\":\"u\",\"vocab\":{\"u\":0,\"s\":1,\"c\":2,\"a\":3,\"##a\":4,\"##"
                 "b\":5,\".\":6,\"e\":7}}}");
    must(tokenizer_open_json(&tok[3], b.s, b.len, "wordpiece", &e) == 0);
    buf_release(&letters);
    buf_release(&pieces);
    buf_release(&b);
}

static void one(struct tokenizer *t, const char *s, size_t n, size_t chars)
{
    struct err e = { "" };
    struct tokens a = TOKENS_INIT, b = TOKENS_INIT;
    struct buf whole = BUF_INIT, parts = BUF_INIT;
    must(tokenizer_encode(t, s, n, 0, &a, &e) == 0);
    must(tokenizer_encode(t, s, n, TOK_OFFSETS, &b, &e) == 0);
    must(a.n == b.n && (a.n == 0 || memcmp(a.id, b.id, a.n * sizeof *a.id) == 0));
    for (size_t i = 0; i < b.n; i++)
        must(b.begin[i] <= b.end[i] && b.end[i] <= chars);
    struct tok_stream *st;
    must(tok_stream_open(&st, t, true, &e) == 0);
    must(tokenizer_decode(t, a.id, a.n, true, &whole, &e) == 0);
    for (size_t i = 0; i < a.n; i++)
        must(tok_stream_put(st, a.id[i], &parts, &e) == 0);
    must(tok_stream_end(st, &parts, &e) == 0);
    must(whole.len == parts.len && (whole.len == 0 || memcmp(whole.s, parts.s, whole.len) == 0));
    must(utf8_check(whole.s ? whole.s : "", whole.len) == whole.len);
    must(tokenizer_encode_pair(t, s, n, s, n / 2, TOK_SPECIALS, &a, &e) == 0);
    tok_stream_close(st);
    tokens_release(&a);
    tokens_release(&b);
    buf_release(&whole);
    buf_release(&parts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct buf good = BUF_INIT;
    size_t chars = 0;
    if (!tok[0])
        open_all();
    uni_repair((const char *)data, n, &good);
    must(utf8_check(good.s ? good.s : "", good.len) == good.len);
    for (size_t i = 0; i < good.len; i++)
        chars += ((unsigned char)good.s[i] & 0xc0) != 0x80;
    for (int i = 0; i < 4; i++)
        one(tok[i], (const char *)data, n, chars);
    /* byte-level text comes back as it went in, but for NFC */
    buf_release(&good);
    return 0;
}
