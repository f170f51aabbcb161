/* rt_cuda.cu - the machine of rt.h: CUDA runtime and cuBLASLt. Compiled here and linked; it waits for a device to run
 * on (tests/bench/device.sh).
 *
 * Products: bf16 operands with sums in float; float operands in full float (no TF32). Unless any order is allowed, a
 * row of a product must not depend on the other rows, nor on how many they are, but cuBLASLt chooses an algorithm by
 * their number: see "which algorithm".
 */
#include "kernels/cuda/rt.h"

#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

static const size_t PINNED = 8 << 20, WORKSPACE = 32 << 20;
enum { PLANS = 512, NOTES = 256, NOTE_BYTES = 16384 };
static const size_t INPUT_BYTES = NOTES / 8 * NOTE_BYTES; /* the longest list: a pass has three, two are under way */

/* One shape that has been multiplied before: heuristics cost more than a small multiplication. */
struct plan {
    product_op o; /* shape and form; not where things lie */
    bool usable;
    size_t workspace; /* what the algorithm may take of it */
    cublasLtMatmulAlgo_t algo;
};

struct rt {
    rt_ticket *idle; /* tickets that were waited for: taking pinned memory costs more than a step */
    int index, chip;
    char name[256];
    cudaStream_t stream;
    cublasLtHandle_t lt;
    void *workspace;
    void *pinned[2];
    cudaEvent_t used[2]; /* the copy out of pinned[i] is over */
    char *notes;         /* [NOTES][NOTE_BYTES] pinned: inputs of a pass, which must not wait for the pass before */
    cudaEvent_t noted[NOTES];
    int next_note;
    plan *plans;
    int nplans;
    bool recording;
};

struct rt_ticket {
    rt_ticket *next;
    void *pinned;
    size_t bytes, room;
    cudaEvent_t done;
};

static void ticket_free(rt_ticket *t);

static int failed(err *e, const char *doing, cudaError_t c)
{
    const char *why = cudaGetErrorString(c);
    switch (c) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorDeviceUninitialized:
    case cudaErrorNoDevice:
    case cudaErrorUnknown: /* what a chip says that fell off the bus */
        return rt_lost(e, doing, why);
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorIllegalInstruction:
    case cudaErrorLaunchFailure:
    case cudaErrorAssert:
        return err_set(
            e,
            "a kernel failed (%s), which showed while %s: the device takes nothing more from this process; run "
            "the same command again, and report it if it comes back",
            why, doing);
    case cudaErrorDevicesUnavailable:
        return err_set(e, "the device is taken, or in exclusive use by another process (%s)", why);
    default:
        return err_set(e, "CUDA: %s failed: %s", doing, why);
    }
}

#define TRY(doing, call)                                                                                               \
    do {                                                                                                               \
        cudaError_t c_ = (call);                                                                                       \
        if (c_ != cudaSuccess)                                                                                         \
            return failed(e, doing, c_);                                                                               \
    } while (0)

static int open_device(rt *r, err *e)
{
    int count = 0, runtime = 0, driver = 0;
    cudaError_t c = cudaGetDeviceCount(&count);
    cudaRuntimeGetVersion(&runtime);
    cudaDriverGetVersion(&driver);
    if (driver == 0)
        return rt_no_driver(e, r->index);
    if (c == cudaErrorNoDevice || (c == cudaSuccess && count == 0))
        return rt_no_device(e, r->index);
    if (c == cudaErrorInsufficientDriver)
        return rt_old_driver(e, r->index, driver, runtime);
    TRY("asking for devices", c);
    if (r->index < 0 || r->index >= count)
        return err_set(e, "device cuda:%d: there are %d devices, counted from 0", r->index, count);
    cudaDeviceProp prop;
    TRY("opening the device", cudaSetDevice(r->index));
    TRY("asking for properties", cudaGetDeviceProperties(&prop, r->index));
    if (prop.major < 8)
        return err_set(e, "device cuda:%d: %s has compute capability %d.%d, 8.0 is the least", r->index, prop.name,
                       prop.major, prop.minor);
    r->chip = 10 * prop.major + prop.minor;
    TRY("making a stream", cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking));
    for (int i = 0; i < 2; i++) {
        TRY("taking pinned memory", cudaMallocHost(&r->pinned[i], PINNED));
        TRY("making an event", cudaEventCreateWithFlags(&r->used[i], cudaEventDisableTiming));
    }
    TRY("taking pinned memory", cudaMallocHost(reinterpret_cast<void **>(&r->notes), NOTES * NOTE_BYTES));
    for (int i = 0; i < NOTES; i++)
        TRY("making an event", cudaEventCreateWithFlags(&r->noted[i], cudaEventDisableTiming));
    TRY("taking a workspace", cudaMalloc(&r->workspace, WORKSPACE));
    if (cublasLtCreate(&r->lt) != CUBLAS_STATUS_SUCCESS)
        return err_set(e, "device cuda:%d: cuBLASLt does not start", r->index);
    return 0;
}

int rt_open(rt **out, int index, err *e)
{
    rt *r = static_cast<rt *>(calloc(1, sizeof *r));
    plan *plans = static_cast<plan *>(calloc(PLANS, sizeof *plans));
    if (!r || !plans) {
        free(r);
        free(plans);
        return err_set(e, "no memory");
    }
    r->index = index;
    r->plans = plans;
    if (open_device(r, e) < 0) {
        rt_close(r);
        return -1;
    }
    *out = r;
    return 0;
}

void rt_close(rt *r)
{
    if (r->stream)
        (void)cudaStreamSynchronize(r->stream);
    while (r->idle) {
        rt_ticket *t = r->idle;
        r->idle = t->next;
        ticket_free(t);
    }
    if (r->lt)
        (void)cublasLtDestroy(r->lt);
    if (r->workspace)
        (void)cudaFree(r->workspace);
    for (int i = 0; i < 2; i++) {
        if (r->pinned[i])
            (void)cudaFreeHost(r->pinned[i]);
        if (r->used[i])
            (void)cudaEventDestroy(r->used[i]);
    }
    for (int i = 0; i < NOTES; i++)
        if (r->noted[i])
            (void)cudaEventDestroy(r->noted[i]);
    if (r->notes)
        (void)cudaFreeHost(r->notes);
    if (r->stream)
        (void)cudaStreamDestroy(r->stream);
    free(r->plans);
    free(r);
}

void rt_enter(rt *r)
{
    (void)cudaSetDevice(r->index);
}

stream_t rt_stream(rt *r)
{
    return r->stream;
}

int rt_chip(rt *r)
{
    return r->chip;
}

int rt_alloc(rt *, void **out, size_t bytes, const char *what, err *e)
{
    cudaError_t c = cudaMalloc(out, bytes ? bytes : 1);
    if (c == cudaErrorMemoryAllocation) {
        size_t left = 0, all = 0;
        (void)cudaGetLastError(); /* taken note of: the device is well */
        (void)cudaMemGetInfo(&left, &all);
        return rt_no_memory(e, what, bytes, left, all);
    }
    TRY("taking memory", c);
    return 0;
}

int64_t rt_memory_left(rt *)
{
    size_t left = 0, all = 0;
    return cudaMemGetInfo(&left, &all) == cudaSuccess ? static_cast<int64_t>(left) : 0;
}

void rt_free(rt *, void *p)
{
    (void)cudaFree(p);
}

int rt_zero(rt *r, void *p, size_t bytes, err *e)
{
    TRY("clearing memory", cudaMemsetAsync(p, 0, bytes, r->stream));
    return 0;
}

int rt_copy(rt *r, void *to, const void *from, size_t bytes, err *e)
{
    TRY("copying", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, r->stream));
    return 0;
}

static void fill_from_memory(void *arg, size_t at, size_t n, void *buffer)
{
    memcpy(buffer, static_cast<const char *>(arg) + at, n);
}

int rt_upload(rt *r, void *to, size_t bytes, rt_fill *fill, void *arg, err *e)
{
    int turn = 0;
    for (size_t at = 0; at < bytes; at += PINNED, turn ^= 1) {
        size_t n = bytes - at < PINNED ? bytes - at : PINNED;
        TRY("an upload", cudaEventSynchronize(r->used[turn]));
        fill(arg, at, n, r->pinned[turn]);
        TRY("an upload",
            cudaMemcpyAsync(static_cast<char *>(to) + at, r->pinned[turn], n, cudaMemcpyHostToDevice, r->stream));
        TRY("an upload", cudaEventRecord(r->used[turn], r->stream));
    }
    return 0;
}

static int write_note(rt *r, char *to, const char *host, size_t bytes, err *e)
{
    int i = r->next_note;
    char *note = r->notes + static_cast<size_t>(i) * NOTE_BYTES;
    r->next_note = (i + 1) % NOTES;
    TRY("a write", cudaEventSynchronize(r->noted[i]));
    memcpy(note, host, bytes);
    TRY("a write", cudaMemcpyAsync(to, note, bytes, cudaMemcpyHostToDevice, r->stream));
    TRY("a write", cudaEventRecord(r->noted[i], r->stream));
    return 0;
}

/* Through the two buffers of uploads a second write waits for the first, which may stand behind a whole pass. */
int rt_write(rt *r, void *to, const void *host, size_t bytes, err *e)
{
    if (bytes > INPUT_BYTES)
        return rt_upload(r, to, bytes, fill_from_memory, const_cast<void *>(host), e);
    for (size_t at = 0; at < bytes; at += NOTE_BYTES) {
        size_t n = bytes - at < NOTE_BYTES ? bytes - at : size_t{ NOTE_BYTES };
        if (write_note(r, static_cast<char *>(to) + at, static_cast<const char *>(host) + at, n, e) < 0)
            return -1;
    }
    return 0;
}

int rt_read(rt *r, void *host, const void *from, size_t bytes, err *e)
{
    TRY("a read", cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, r->stream));
    TRY("running what was enqueued", cudaStreamSynchronize(r->stream));
    return 0;
}

static void ticket_free(rt_ticket *t)
{
    if (t->done)
        (void)cudaEventDestroy(t->done);
    if (t->pinned)
        (void)cudaFreeHost(t->pinned);
    free(t);
}

static rt_ticket *idle_ticket(rt *r, size_t bytes)
{
    for (rt_ticket **at = &r->idle; *at; at = &(*at)->next)
        if ((*at)->room >= bytes) {
            rt_ticket *t = *at;
            *at = t->next;
            return t;
        }
    return nullptr;
}

static int ticket_new(rt_ticket **out, size_t bytes, err *e)
{
    rt_ticket *t = static_cast<rt_ticket *>(calloc(1, sizeof *t));
    if (!t)
        return err_set(e, "no memory");
    t->room = bytes < 4096 ? 4096 : bytes;
    cudaError_t c = cudaMallocHost(&t->pinned, t->room);
    if (c == cudaSuccess)
        c = cudaEventCreateWithFlags(&t->done, cudaEventDisableTiming);
    if (c == cudaSuccess) {
        *out = t;
        return 0;
    }
    ticket_free(t);
    return failed(e, "a read", c);
}

int rt_ticket_begin(rt *r, rt_ticket **out, const void *from, size_t bytes, err *e)
{
    rt_ticket *t = idle_ticket(r, bytes);
    if (!t && ticket_new(&t, bytes, e) < 0)
        return -1;
    t->bytes = bytes;
    cudaError_t c = cudaMemcpyAsync(t->pinned, from, bytes, cudaMemcpyDeviceToHost, r->stream);
    if (c == cudaSuccess)
        c = cudaEventRecord(t->done, r->stream);
    if (c == cudaSuccess) {
        *out = t;
        return 0;
    }
    ticket_free(t);
    return failed(e, "a read", c);
}

int rt_ticket_wait(rt *r, rt_ticket *t, void *host, err *e)
{
    cudaError_t c = cudaEventSynchronize(t->done);
    if (c == cudaSuccess)
        memcpy(host, t->pinned, t->bytes);
    t->next = r->idle;
    r->idle = t;
    return c == cudaSuccess ? 0 : failed(e, "running what was enqueued", c);
}

/* ---- recordings: CUDA graphs ---- */

struct rt_recording {
    cudaGraphExec_t graph;
};

int rt_record_begin(rt *r, err *e)
{
    TRY("beginning a recording", cudaStreamBeginCapture(r->stream, cudaStreamCaptureModeThreadLocal));
    r->recording = true;
    return 0;
}

rt_recording *rt_record_end(rt *r)
{
    cudaGraph_t graph = nullptr;
    rt_recording *x = static_cast<rt_recording *>(calloc(1, sizeof *x));
    cudaError_t c = cudaStreamEndCapture(r->stream, &graph);
    r->recording = false;
    if (c == cudaSuccess && x)
        c = cudaGraphInstantiate(&x->graph, graph, 0);
    if (graph)
        (void)cudaGraphDestroy(graph);
    if (c == cudaSuccess)
        return x;
    (void)cudaGetLastError(); /* taken note of: nothing of it ran */
    free(x);
    return nullptr;
}

int rt_replay(rt *r, rt_recording *x, err *e)
{
    TRY("replaying a step", cudaGraphLaunch(x->graph, r->stream));
    return 0;
}

void rt_recording_free(rt *r, rt_recording *x)
{
    if (!x)
        return;
    (void)cudaStreamSynchronize(r->stream); /* it may still run */
    (void)cudaGraphExecDestroy(x->graph);
    free(x);
}

int rt_launched(rt *, err *e)
{
    TRY("starting a kernel", cudaGetLastError());
    return 0;
}

int rt_sync(rt *r, err *e)
{
    TRY("running what was enqueued", cudaStreamSynchronize(r->stream));
    return 0;
}

/* ---- multiplication ---- */

/* Column-major, as cuBLAS sees it: y^T [n, m] = b [n, k] a^T [k, m]. b as it lies is k by n, turned n by k; a is k by
 * m, turned m by k. */
struct matmul {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t b, a, y;
};

static void matmul_free(matmul *m)
{
    if (m->desc)
        (void)cublasLtMatmulDescDestroy(m->desc);
    if (m->b)
        (void)cublasLtMatrixLayoutDestroy(m->b);
    if (m->a)
        (void)cublasLtMatrixLayoutDestroy(m->a);
    if (m->y)
        (void)cublasLtMatrixLayoutDestroy(m->y);
}

static bool matmul_make(matmul *x, const product_op &o)
{
    cudaDataType_t in = o.bf16_in ? CUDA_R_16BF : CUDA_R_32F;
    cublasOperation_t turn_b = o.b_turned ? CUBLAS_OP_N : CUBLAS_OP_T, turn_a = o.a_turned ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    uint64_t m = static_cast<uint64_t>(o.m), n = static_cast<uint64_t>(o.n), k = static_cast<uint64_t>(o.k);
    *x = matmul{ nullptr, nullptr, nullptr, nullptr };
    bool ok = !cublasLtMatmulDescCreate(&x->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) &&
              !cublasLtMatmulDescSetAttribute(x->desc, CUBLASLT_MATMUL_DESC_TRANSA, &turn_b, sizeof turn_b) &&
              !cublasLtMatmulDescSetAttribute(x->desc, CUBLASLT_MATMUL_DESC_TRANSB, &turn_a, sizeof turn_a) &&
              !(o.b_turned ? cublasLtMatrixLayoutCreate(&x->b, in, n, k, o.n)
                           : cublasLtMatrixLayoutCreate(&x->b, in, k, n, o.k)) &&
              !(o.a_turned ? cublasLtMatrixLayoutCreate(&x->a, in, m, k, o.m)
                           : cublasLtMatrixLayoutCreate(&x->a, in, k, m, o.k)) &&
              !cublasLtMatrixLayoutCreate(&x->y, o.bf16_out ? CUDA_R_16BF : CUDA_R_32F, n, m, o.y_stride);
    if (ok && o.bias)
        ok = !cublasLtMatmulDescSetAttribute(x->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue) &&
             !cublasLtMatmulDescSetAttribute(x->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &o.bias, sizeof o.bias);
    return ok;
}

static bool same_plan(const product_op &a, const product_op &b)
{
    return a.m == b.m && a.n == b.n && a.k == b.k && a.y_stride == b.y_stride && a.bf16_in == b.bf16_in &&
           a.bf16_out == b.bf16_out && a.a_turned == b.a_turned && a.b_turned == b.b_turned && a.add == b.add &&
           !a.bias == !b.bias && a.any_order == b.any_order;
}

/* ---- which algorithm ----
 * cuBLASLt's heuristic goes by the shape. Where any order will do, its first choice is taken, sums split over K in all
 * ways it knows: none of them is left to chance (in place, counters keep the sequence; else a second kernel adds the
 * parts), and with work space of our own it promises the same bits at every run on chips of one architecture and size.
 * Elsewhere a row's bits must be the same among any others, and a column's among any others, so there
 * - an element is one sum, in one place: neither a reduction nor work space is allowed (CUBLASLT_REDUCTION_SCHEME_NONE:
 *   "dot-product shall be performed in one sequence");
 * - its order is that of one algorithm, the one for REFERENCE_ROWS x REFERENCE_COLS, whatever the shape. Another that
 *   is better for the shape at hand is taken if it gives the same bits in a trial on random numbers. */
enum { REFERENCE_ROWS = 256, REFERENCE_COLS = 4096, CANDIDATES = 8, TRIAL_ROWS = 64, TRIAL_COLS = 128 };
enum { TRIAL_K = 16384, TRIAL_OUT = TRIAL_ROWS * TRIAL_COLS, TRIAL_IN = (TRIAL_ROWS + TRIAL_COLS) * TRIAL_K };

/* Algorithms for a product, the best first. */
static int heuristics(rt *r, const product_op &o, cublasLtMatmulHeuristicResult_t *found, int most)
{
    matmul x;
    cublasLtMatmulPreference_t preference = nullptr;
    uint32_t schemes = !o.any_order ? CUBLASLT_REDUCTION_SCHEME_NONE
                       : o.bf16_out ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE /* parts stay in float */
                                    : CUBLASLT_REDUCTION_SCHEME_MASK;
    size_t workspace = o.any_order ? WORKSPACE : 0;
    int n = 0;
    bool ok = matmul_make(&x, o) && !cublasLtMatmulPreferenceCreate(&preference) &&
              !cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                    sizeof workspace) &&
              !cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes,
                                                    sizeof schemes) &&
              !cublasLtMatmulAlgoGetHeuristic(r->lt, x.desc, x.b, x.a, x.y, x.y, preference, most, found, &n);
    if (preference)
        (void)cublasLtMatmulPreferenceDestroy(preference);
    matmul_free(&x);
    int good = 0;
    for (int i = 0; ok && i < n; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS)
            found[good++] = found[i];
    return good;
}

static cublasStatus_t run_product(rt *r, const matmul &x, const product_op &o, const cublasLtMatmulAlgo_t &algo,
                                  size_t workspace)
{
    float one = 1, beta = o.add ? 1.0f : 0.0f;
    return cublasLtMatmul(r->lt, x.desc, &one, o.b, x.b, o.a, x.a, &beta, o.y, x.y, o.y, x.y, &algo, r->workspace,
                          workspace, r->stream);
}

/* Numbers of -1 .. 1, of the type that *arg says is bf16 or not. */
static void fill_random(void *arg, size_t at, size_t n, void *buffer)
{
    size_t size = *static_cast<const bool *>(arg) ? 2 : 4;
    for (size_t i = 0; i < n / size; i++) {
        uint32_t x = static_cast<uint32_t>(at / size + i) * 2654435761u, u;
        x = (x ^ x >> 15) * 2246822519u;
        float f = static_cast<float>(static_cast<int32_t>(x ^ x >> 13)) * 0x1p-31f;
        memcpy(&u, &f, sizeof u);
        u >>= size == 2 ? 16 : 0;
        memcpy(static_cast<char *>(buffer) + i * size, &u, size); /* the lower bytes */
    }
}

/* Do two algorithms for products like o add in the same order? Waits. */
static bool same_bits(rt *r, const product_op &o, const cublasLtMatmulAlgo_t &one, const cublasLtMatmulAlgo_t &other)
{
    struct results {
        float bias[TRIAL_COLS], y[2][TRIAL_OUT];
    };
    static_assert(TRIAL_IN * sizeof(float) + sizeof(results) <= (size_t{ 32 } << 20), "it fits into the work space");
    err e;
    matmul x;
    product_op t = o;
    bool bf16 = o.bf16_in;
    char *in = static_cast<char *>(r->workspace);
    results *out = reinterpret_cast<results *>(in + WORKSPACE) - 1, *got = static_cast<results *>(r->pinned[0]);
    size_t row = static_cast<size_t>(o.k) * (bf16 ? 2 : 4);
    t.m = TRIAL_ROWS;
    t.n = TRIAL_COLS;
    t.y_stride = TRIAL_COLS;
    t.a = in;
    t.b = in + TRIAL_ROWS * row;
    t.bias = o.bias ? out->bias : nullptr;
    bool ok = rt_upload(r, in, (TRIAL_ROWS + TRIAL_COLS) * row, fill_random, &bf16, &e) == 0 &&
              rt_zero(r, out, sizeof *out, &e) == 0;
    ok = matmul_make(&x, t) && ok;
    for (int i = 0; i < 2 && ok; i++) {
        t.y = out->y[i];
        ok = run_product(r, x, t, i ? other : one, 0) == CUBLAS_STATUS_SUCCESS;
    }
    matmul_free(&x);
    ok = rt_sync(r, &e) == 0 && ok; /* what went through the pinned buffers is over, too */
    ok = ok && rt_read(r, got, out, sizeof *got, &e) == 0;
    return ok && memcmp(got->y[0], got->y[1], sizeof got->y[0]) == 0;
}

static bool allowed(rt *r, const product_op &o, const cublasLtMatmulAlgo_t &algo)
{
    matmul x;
    cublasLtMatmulHeuristicResult_t result;
    bool ok = matmul_make(&x, o) &&
              cublasLtMatmulAlgoCheck(r->lt, x.desc, x.b, x.a, x.y, x.y, &algo, &result) == CUBLAS_STATUS_SUCCESS &&
              result.workspaceSize == 0;
    matmul_free(&x);
    return ok;
}

/* The algorithm whose order counts. Rows of y that are not whole pieces of memory may not have it: they have one of
 * their own, and among their columns no promise. */
static bool reference_of(rt *r, const product_op &o, cublasLtMatmulAlgo_t *algo)
{
    cublasLtMatmulHeuristicResult_t found;
    product_op reference = o;
    reference.m = REFERENCE_ROWS;
    for (int own = 0; own < 2; own++) {
        reference.n = own ? o.n : int(REFERENCE_COLS);
        reference.y_stride = own ? o.y_stride : int(REFERENCE_COLS);
        if (heuristics(r, reference, &found, 1) == 1 && allowed(r, o, found.algo)) {
            *algo = found.algo;
            return true;
        }
    }
    return false;
}

static bool algorithm_in_order(rt *r, const product_op &o, cublasLtMatmulAlgo_t *algo)
{
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    if (!reference_of(r, o, algo))
        return false;
    int n = o.k <= TRIAL_K ? heuristics(r, o, found, CANDIDATES) : 0;
    for (int i = 0; i < n && memcmp(&found[i].algo, algo, sizeof *algo) != 0; i++)
        if (same_bits(r, o, *algo, found[i].algo)) {
            *algo = found[i].algo;
            break;
        }
    return true;
}

static bool algorithm_for(rt *r, const product_op &o, cublasLtMatmulAlgo_t *algo)
{
    cublasLtMatmulHeuristicResult_t found;
    if (!o.any_order)
        return algorithm_in_order(r, o, algo);
    if (heuristics(r, o, &found, 1) != 1)
        return false;
    *algo = found.algo;
    return true;
}

/* 1, 2, 3, 4, 6, 8, 12 ...: up to each of these, numbers of rows share a plan. */
static int rows_up(int m)
{
    int rows = 1;
    while (rows < m)
        rows = rows == 1 ? 2 : rows & (rows - 1) ? rows / 3 * 4 : rows / 2 * 3;
    return rows;
}

/* NULL: not while something is recorded, for a trial waits. */
static plan *find_plan(rt *r, product_op o)
{
    if (!o.a_turned && !o.b_turned) /* forward, where batches are of any size */
        o.m = rows_up(o.m);
    for (int i = 0; i < r->nplans; i++)
        if (same_plan(r->plans[i].o, o))
            return &r->plans[i];
    if (r->recording)
        return nullptr;
    if (r->nplans == PLANS) /* many different shapes: begin again */
        r->nplans = 0;
    plan *p = &r->plans[r->nplans++];
    p->o = o;
    p->workspace = o.any_order ? WORKSPACE : 0;
    p->usable = algorithm_for(r, o, &p->algo);
    return p;
}

int rt_product(rt *r, const product_op &o, err *e)
{
    matmul x;
    plan *p = find_plan(r, o);
    if (!p)
        return err_set(e, "a product of %d x %d x %d is recorded before it has run", o.m, o.n, o.k);
    if (!p->usable) { /* rows of odd length have no algorithm */
        op_product_plain(r->stream, o);
        return 0;
    }
    cublasStatus_t status = CUBLAS_STATUS_ALLOC_FAILED;
    if (matmul_make(&x, o))
        status = run_product(r, x, o, p->algo, p->workspace);
    matmul_free(&x);
    if (status != CUBLAS_STATUS_SUCCESS)
        return err_set(e, "cuBLASLt: %d x %d x %d failed: %s", o.m, o.n, o.k, cublasLtGetStatusString(status));
    return 0;
}
