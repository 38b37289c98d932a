/* Causal depthwise convolution, channel-last, float32, with an optional SiLU behind it.
 *
 *   s_t = bias + sum_j w[j] x_(t - (W - 1) + j)        W taps, the last one at t itself; x is 0 before the first step
 *   out_t = s_t sigmoid(s_t), or s_t
 *
 * Vectors run over channels; a task is one sequence and up to `group` channels, time is cut into chunks that stay in
 * cache. Reversed, time is counted from the end. The backward pass recomputes s. dweight and dbias come back per
 * sequence, so that no sum depends on how many threads share the tasks.
 */
#include "vector.h"

#include <stdatomic.h>

enum { MAX_WIDTH = 8 };

typedef struct {
    int64_t batch, length, channels, taps; /* b, l, d, W */
    int64_t group, chunk;
    int64_t reverse, silu;
    rows x;              /* (b, l, d) */
    const float *weight; /* (d, W) */
    const float *bias;   /* (d,) or NULL */
    float *out;          /* (b, l, d) */
    _Atomic int64_t *next_task;
} convolution;

typedef struct {
    rows dout;      /* (b, l, d) */
    float *dx;      /* (b, l, d) */
    float *dweight; /* (b, d, W) */
    float *dbias;   /* (b, d) */
} convolution_gradients;

INLINE int64_t groups_of(const convolution *p) { return (p->channels + p->group - 1) / p->group; }

INLINE int64_t time_of(const convolution *p, int64_t t) { return p->reverse ? p->length - 1 - t : t; }

INLINE void load_weight(const convolution *p, int64_t channel, int width, int taps, vf *w) {
    for (int j = 0; j < taps; j++) {
        w[j] = broadcast(0.0f);
        for (int i = 0; i < width; i++) w[j][i] = p->weight[(channel + i) * p->taps + j];
    }
}

INLINE vf x_at(const convolution *p, int64_t b, int64_t t, int64_t channel, int width) {
    return t < 0 ? broadcast(0.0f) : load(row_of(p->x, b, time_of(p, t)) + channel, width);
}

INLINE void forward_piece(const convolution *p, int64_t b, int64_t begin, int64_t end, int64_t channel, int width,
                          int taps) {
    vf w[MAX_WIDTH], x[MAX_WIDTH];
    load_weight(p, channel, width, taps, w);
    vf bias = p->bias ? load(p->bias + channel, width) : broadcast(0.0f);
    for (int j = 1; j < taps; j++) x[j] = x_at(p, b, begin - taps + j, channel, width);
    for (int64_t t = begin; t < end; t++) {
        for (int j = 1; j < taps; j++) x[j - 1] = x[j];
        x[taps - 1] = x_at(p, b, t, channel, width);
        vf s = bias;
        for (int j = 0; j < taps; j++) s += w[j] * x[j];
        if (p->silu) s *= sigmoid(s);
        store(p->out + (b * p->length + time_of(p, t)) * p->channels + channel, s, width);
    }
}

static void forward_task(const convolution *p, int64_t b, int64_t g) {
    int64_t first = g * p->group, last = minimum(p->channels, first + p->group);
    for (int64_t begin = 0; begin < p->length; begin += p->chunk) {
        int64_t end = minimum(p->length, begin + p->chunk);
        for (int64_t c = first; c < last; c += VW) {
            if (last - c < VW) forward_piece(p, b, begin, end, c, (int)(last - c), (int)p->taps);
            else if (p->taps == 4) forward_piece(p, b, begin, end, c, VW, 4);
            else forward_piece(p, b, begin, end, c, VW, (int)p->taps);
        }
    }
}

/* ds holds dloss/ds of the chunk's steps and of the W - 1 after it, which its last inputs also feed. */
INLINE void backward_piece(const convolution *p, const convolution_gradients *q, int64_t b, int64_t begin, int64_t end,
                           int64_t channel, int width, int taps, vf *dweight, vf *dbias, vf *ds) {
    vf w[MAX_WIDTH], x[MAX_WIDTH], dw[MAX_WIDTH], db = *dbias;
    load_weight(p, channel, width, taps, w);
    vf bias = p->bias ? load(p->bias + channel, width) : broadcast(0.0f);
    for (int j = 0; j < taps; j++) dw[j] = dweight[j];
    for (int j = 1; j < taps; j++) x[j] = x_at(p, b, begin - taps + j, channel, width);
    for (int64_t t = begin; t < end + taps - 1; t++) {
        vf g = broadcast(0.0f);
        if (t < p->length) {
            for (int j = 1; j < taps; j++) x[j - 1] = x[j];
            x[taps - 1] = x_at(p, b, t, channel, width);
            g = load(row_of(q->dout, b, time_of(p, t)) + channel, width);
            if (p->silu) {
                vf s = bias;
                for (int j = 0; j < taps; j++) s += w[j] * x[j];
                vf sig = sigmoid(s);
                g *= sig * (1.0f + s * (1.0f - sig));
            }
        }
        ds[t - begin] = g;
        if (t < end) {
            for (int j = 0; j < taps; j++) dw[j] += g * x[j];
            db += g;
        }
        int64_t ready = t - (taps - 1);
        if (ready >= begin) {
            vf dx = broadcast(0.0f);
            for (int j = 0; j < taps; j++) dx += w[j] * ds[ready - begin + taps - 1 - j];
            store(q->dx + (b * p->length + time_of(p, ready)) * p->channels + channel, dx, width);
        }
    }
    for (int j = 0; j < taps; j++) dweight[j] = dw[j];
    *dbias = db;
}

static void backward_task(const convolution *p, const convolution_gradients *q, int64_t b, int64_t g, vf *memory) {
    int64_t first = g * p->group, last = minimum(p->channels, first + p->group), taps = p->taps;
    vf *dweight = memory, *dbias = dweight + p->group / VW * taps, *ds = dbias + p->group / VW;
    memset(memory, 0, (size_t)(p->group * (taps + 1)) * sizeof(float));
    for (int64_t begin = 0; begin < p->length; begin += p->chunk) {
        int64_t end = minimum(p->length, begin + p->chunk);
        for (int64_t c = first; c < last; c += VW) {
            int64_t k = (c - first) / VW;
            vf *dw = dweight + k * taps, *db = dbias + k;
            if (last - c < VW) backward_piece(p, q, b, begin, end, c, (int)(last - c), (int)taps, dw, db, ds);
            else if (taps == 4) backward_piece(p, q, b, begin, end, c, VW, 4, dw, db, ds);
            else backward_piece(p, q, b, begin, end, c, VW, (int)taps, dw, db, ds);
        }
    }
    for (int64_t c = first; c < last; c++) {
        int64_t k = (c - first) / VW, i = (c - first) % VW;
        for (int64_t j = 0; j < taps; j++) q->dweight[(b * p->channels + c) * taps + j] = dweight[k * taps + j][i];
        q->dbias[b * p->channels + c] = dbias[k][i];
    }
}

/* Each returns 0, or 1 where there was no memory. Any number of threads may run one call on the same arguments. */
int causal_conv1d_forward(const convolution *p) {
    control_word mode = flush_denormals();
    int64_t groups = groups_of(p), tasks = p->batch * groups;
    for (int64_t i; (i = atomic_fetch_add(p->next_task, 1)) < tasks;) forward_task(p, i / groups, i % groups);
    restore_denormals(mode);
    return 0;
}

int causal_conv1d_backward(const convolution *p, const convolution_gradients *q) {
    int64_t floats = p->group * (p->taps + 1) + (p->chunk + p->taps - 1) * VW;
    vf *memory = allocate((size_t)floats * sizeof(float));
    if (!memory) return 1;
    control_word mode = flush_denormals();
    int64_t groups = groups_of(p), tasks = p->batch * groups;
    for (int64_t i; (i = atomic_fetch_add(p->next_task, 1)) < tasks;) backward_task(p, q, i / groups, i % groups, memory);
    restore_denormals(mode);
    free(memory);
    return 0;
}
