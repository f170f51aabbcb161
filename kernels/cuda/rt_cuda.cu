/* rt_cuda.cu - the machine of rt.h: CUDA runtime and cuBLASLt. Compiled here and linked; it waits for a device to run
 * on (tests/bench/device.sh).
 *
 * Products: bf16 operands with sums in float; float operands in full float (no TF32).
 * cuBLASLt's heuristic chooses by the number of rows, so the order of a sum may differ between batch sizes: the promise
 * that a row does not depend on the other rows does not hold for linear here yet (the numerics class says "cublas"). */
#include "kernels/cuda/rt.h"

#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

static const size_t PINNED = 8 << 20, WORKSPACE = 32 << 20;
enum { PLANS = 512, NOTES = 256, NOTE_BYTES = 4096 };

/* One shape that has been multiplied before: heuristics cost more than a small multiplication. */
struct plan {
    product_op o; /* shape and form; not where things lie */
    bool usable;
    cublasLtMatmulAlgo_t algo;
};

struct rt {
    rt_ticket *idle; /* tickets that were waited for: taking pinned memory costs more than a step */
    int index;
    char name[256];
    cudaStream_t stream;
    cublasLtHandle_t lt;
    void *workspace;
    void *pinned[2];
    cudaEvent_t used[2]; /* the copy out of pinned[i] is over */
    char *notes; /* [NOTES][NOTE_BYTES] pinned: small writes of a step, which must not wait for the step before */
    cudaEvent_t noted[NOTES];
    int next_note;
    plan *plans;
    int nplans;
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

int rt_write(rt *r, void *to, const void *host, size_t bytes, err *e)
{
    if (bytes <= NOTE_BYTES) {
        int i = r->next_note;
        char *note = r->notes + static_cast<size_t>(i) * NOTE_BYTES;
        r->next_note = (i + 1) % NOTES;
        TRY("a write", cudaEventSynchronize(r->noted[i]));
        memcpy(note, host, bytes);
        TRY("a write", cudaMemcpyAsync(to, note, bytes, cudaMemcpyHostToDevice, r->stream));
        TRY("a write", cudaEventRecord(r->noted[i], r->stream));
        return 0;
    }
    return rt_upload(r, to, bytes, fill_from_memory, const_cast<void *>(host), e);
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
    return 0;
}

rt_recording *rt_record_end(rt *r)
{
    cudaGraph_t graph = nullptr;
    rt_recording *x = static_cast<rt_recording *>(calloc(1, sizeof *x));
    cudaError_t c = cudaStreamEndCapture(r->stream, &graph);
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
              !cublasLtMatrixLayoutCreate(&x->y, CUDA_R_32F, n, m, o.y_stride);
    if (ok && o.bias)
        ok = !cublasLtMatmulDescSetAttribute(x->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue) &&
             !cublasLtMatmulDescSetAttribute(x->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &o.bias, sizeof o.bias);
    return ok;
}

static bool same_plan(const product_op &a, const product_op &b)
{
    return a.m == b.m && a.n == b.n && a.k == b.k && a.y_stride == b.y_stride && a.bf16_in == b.bf16_in &&
           a.a_turned == b.a_turned && a.b_turned == b.b_turned && a.add == b.add && !a.bias == !b.bias;
}

static plan *find_plan(rt *r, const product_op &o, const matmul &m)
{
    for (int i = 0; i < r->nplans; i++)
        if (same_plan(r->plans[i].o, o))
            return &r->plans[i];
    if (r->nplans == PLANS) /* many different prompt lengths: begin again */
        r->nplans = 0;
    plan *p = &r->plans[r->nplans++];
    *p = plan{ o, false, {} };
    cublasLtMatmulPreference_t preference = nullptr;
    cublasLtMatmulHeuristicResult_t found;
    int n = 0;
    if (!cublasLtMatmulPreferenceCreate(&preference) &&
        !cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE,
                                              sizeof WORKSPACE) &&
        !cublasLtMatmulAlgoGetHeuristic(r->lt, m.desc, m.b, m.a, m.y, m.y, preference, 1, &found, &n) && n > 0) {
        p->algo = found.algo;
        p->usable = true;
    }
    if (preference)
        (void)cublasLtMatmulPreferenceDestroy(preference);
    return p;
}

int rt_product(rt *r, const product_op &o, err *e)
{
    matmul x;
    float one = 1, beta = o.add ? 1.0f : 0.0f;
    bool made = matmul_make(&x, o);
    plan *p = made ? find_plan(r, o, x) : nullptr;
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    if (p && p->usable)
        status = cublasLtMatmul(r->lt, x.desc, &one, o.b, x.b, o.a, x.a, &beta, o.y, x.y, o.y, x.y, &p->algo,
                                r->workspace, WORKSPACE, r->stream);
    else /* rows of odd length have no algorithm */
        op_product_plain(r->stream, o);
    matmul_free(&x);
    if (status != CUBLAS_STATUS_SUCCESS)
        return err_set(e, "cuBLASLt: %d x %d x %d failed: %s", o.m, o.n, o.k, cublasLtGetStatusString(status));
    return 0;
}
