/* Causal depthwise convolution, channel-last, float32, with an optional SiLU behind it.
 *
 *   s_t   = bias + sum_j w[j] x_(t - (W - 1) + j)      W taps, the last one at t itself; x is 0 before the first step
 *   out_t = s_t sigmoid(s_t), or s_t
 *
 * Vectors run over channels. A task is one sequence and a group of channels; it walks through time in chunks, whose
 * rows stay in cache while each vector of the group passes over them. Reversed, time is counted from the end.
 *
 * The backward pass recomputes s. dweight and dbias come back per sequence, so that no sum depends on how many threads
 * share the tasks, and the caller adds them up in order.
 */
#include "vector.h"

#include <stdatomic.h>

typedef struct {
    int64_t batch, length, channels, taps; /* b, l, d, W */
    int64_t group, chunk;                  /* channels of a task (a multiple of VW), steps of a chunk */
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

/* One vector of channels over one chunk: steps [begin, end) of sequence b, channels [channel, channel + width). */
typedef struct {
    int64_t b, begin, end, channel;
} piece;

INLINE int64_t time_of(const convolution *p, int64_t t) { return p->reverse ? p->length - 1 - t : t; }

INLINE int64_t groups_of(const convolution *p) { return (p->channels + p->group - 1) / p->group; }

INLINE vf x_at(const convolution *p, piece s, int64_t t, int width) {
    if (t < 0) return broadcast(0.0f);
    return load(row_of(p->x, s.b, time_of(p, t)) + s.channel, width);
}

INLINE vf convolve(const convolution *p, piece s, int64_t t, int width, int64_t taps, const vf *w, vf bias) {
    for (int64_t j = 0; j < taps; j++) bias += w[j] * x_at(p, s, t - (taps - 1) + j, width);
    return bias;
}

INLINE int64_t offset_of(const convolution *p, piece s, int64_t t) {
    return (s.b * p->length + time_of(p, t)) * p->channels + s.channel;
}

INLINE void forward_piece(const convolution *p, piece s, int width, int64_t taps, const vf *w, vf bias) {
    for (int64_t t = s.begin; t < s.end; t++) {
        vf y = convolve(p, s, t, width, taps, w, bias);
        if (p->silu) y *= sigmoid(y);
        store(p->out + offset_of(p, s, t), y, width);
    }
}

typedef struct {
    vf *w, *dw;       /* (vectors, W) */
    vf *bias, *dbias; /* (vectors,) */
    vf *ds;           /* (chunk + W - 1,): the chunk's steps, and those after it that its last inputs also feed */
    vf *chunk_dw;     /* (W,): over the chunk alone, because sums of sums lose fewer digits */
} workspace;

INLINE void backward_piece(const convolution *p, const convolution_gradients *q, piece s, int width, int64_t taps,
                           int64_t k, workspace m) {
    const vf *w = m.w + k * taps;
    vf *restrict dw = m.chunk_dw, *restrict ds = m.ds, dbias = broadcast(0.0f);
    for (int64_t j = 0; j < taps; j++) dw[j] = broadcast(0.0f);
    for (int64_t t = s.begin; t < s.end + taps - 1; t++) {
        vf g = broadcast(0.0f);
        if (t < p->length) {
            g = load(row_of(q->dout, s.b, time_of(p, t)) + s.channel, width);
            if (p->silu) {
                vf y = convolve(p, s, t, width, taps, w, m.bias[k]), gate = sigmoid(y);
                g *= gate * (1.0f + y * (1.0f - gate));
            }
        }
        ds[t - s.begin] = g;
    }
    for (int64_t t = s.begin; t < s.end; t++) {
        const vf *g = ds + (t - s.begin);
        vf dx = broadcast(0.0f);
        for (int64_t j = 0; j < taps; j++) {
            dw[j] += *g * x_at(p, s, t - (taps - 1) + j, width);
            dx += w[j] * g[taps - 1 - j];
        }
        dbias += *g;
        store(q->dx + offset_of(p, s, t), dx, width);
    }
    for (int64_t j = 0; j < taps; j++) m.dw[k * taps + j] += dw[j];
    m.dbias[k] += dbias;
}

/* The group's weight as (vectors, W) and bias as (vectors,); lanes past the last channel are 0. */
static void load_parameters(const convolution *p, int64_t first, int64_t last, vf *w, vf *bias) {
    memset(w, 0, (size_t)(p->group * p->taps) * sizeof(float));
    memset(bias, 0, (size_t)p->group * sizeof(float));
    for (int64_t i = 0; i < last - first; i++) {
        for (int64_t j = 0; j < p->taps; j++) w[i / VW * p->taps + j][i % VW] = p->weight[(first + i) * p->taps + j];
        if (p->bias) bias[i / VW][i % VW] = p->bias[first + i];
    }
}

static void forward_task(const convolution *p, int64_t b, int64_t g, vf *w, vf *bias) {
    int64_t first = g * p->group, last = minimum(p->channels, first + p->group), taps = p->taps;
    load_parameters(p, first, last, w, bias);
    for (int64_t begin = 0; begin < p->length; begin += p->chunk) {
        int64_t end = minimum(p->length, begin + p->chunk);
        for (int64_t c = first; c < last; c += VW) {
            piece s = {b, begin, end, c};
            int64_t k = (c - first) / VW;
            /* 4 taps, the usual number, as a constant: the loops over taps are unrolled. */
            if (last - c >= VW && taps == 4) forward_piece(p, s, VW, 4, w + k * taps, bias[k]);
            else if (last - c >= VW) forward_piece(p, s, VW, taps, w + k * taps, bias[k]);
            else forward_piece(p, s, (int)(last - c), taps, w + k * taps, bias[k]);
        }
    }
}

static void backward_task(const convolution *p, const convolution_gradients *q, int64_t b, int64_t g, workspace m) {
    int64_t first = g * p->group, last = minimum(p->channels, first + p->group), taps = p->taps;
    load_parameters(p, first, last, m.w, m.bias);
    memset(m.dw, 0, (size_t)(p->group * taps) * sizeof(float));
    memset(m.dbias, 0, (size_t)p->group * sizeof(float));
    for (int64_t begin = 0; begin < p->length; begin += p->chunk) {
        int64_t end = minimum(p->length, begin + p->chunk);
        for (int64_t c = first; c < last; c += VW) {
            piece s = {b, begin, end, c};
            int64_t k = (c - first) / VW;
            if (last - c >= VW && taps == 4) backward_piece(p, q, s, VW, 4, k, m);
            else if (last - c >= VW) backward_piece(p, q, s, VW, taps, k, m);
            else backward_piece(p, q, s, (int)(last - c), taps, k, m);
        }
    }
    for (int64_t i = 0; i < last - first; i++) {
        int64_t channel = b * p->channels + first + i;
        for (int64_t j = 0; j < taps; j++) q->dweight[channel * taps + j] = m.dw[i / VW * taps + j][i % VW];
        q->dbias[channel] = m.dbias[i / VW][i % VW];
    }
}

/* Each returns 0, or 1 where there was no memory. Any number of threads may run one call on the same arguments. */
int causal_conv1d_forward(const convolution *p) {
    int64_t vectors = p->group / VW, groups = groups_of(p);
    vf *memory = allocate((size_t)(vectors * (p->taps + 1)) * sizeof(vf));
    if (!memory) return 1;
    control_word mode = flush_denormals();
    for (int64_t i; (i = atomic_fetch_add(p->next_task, 1)) < p->batch * groups;)
        forward_task(p, i / groups, i % groups, memory, memory + vectors * p->taps);
    restore_denormals(mode);
    free(memory);
    return 0;
}

int causal_conv1d_backward(const convolution *p, const convolution_gradients *q) {
    int64_t vectors = p->group / VW, groups = groups_of(p), taps = p->taps;
    workspace m;
    m.w = allocate((size_t)(2 * vectors * (taps + 1) + p->chunk + 2 * taps) * sizeof(vf));
    if (!m.w) return 1;
    m.dw = m.w + vectors * taps;
    m.bias = m.dw + vectors * taps;
    m.dbias = m.bias + vectors;
    m.chunk_dw = m.dbias + vectors;
    m.ds = m.chunk_dw + taps;
    control_word mode = flush_denormals();
    for (int64_t i; (i = atomic_fetch_add(p->next_task, 1)) < p->batch * groups;)
        backward_task(p, q, i / groups, i % groups, m);
    restore_denormals(mode);
    free(m.w);
    return 0;
}
