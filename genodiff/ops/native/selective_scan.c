/* Selective scan (Gu & Dao 2023, arXiv:2312.00752, eq. 2 and algorithm 2), channel-last, float32.
 *
 *   dt_t  = softplus(delta_t + delta_bias), or without the softplus
 *   h_t   = exp(dt_t A) h_(t-1) + dt_t u_t B_t        h: (d, n), zero before the first step
 *   y_t   = C_t h_t + D u_t
 *   out_t = y_t silu(z_t), or y_t
 *
 * Vectors run over channels. A task is one sequence and a group of channels; it walks through time in chunks, whose
 * rows stay in cache while each vector of the group passes over them. Reversed, time is counted from the end.
 *
 * The forward pass can keep the state before every chunk; the backward pass recomputes the chunk from it. No sum
 * depends on how many threads share the tasks: dB and dC come back per group, dA, dD and ddelta_bias per sequence, and
 * the caller adds them up in order.
 */
#include "vector.h"

#include <stdatomic.h>

#if defined(__clang__)
#define UNROLL _Pragma("unroll 16")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef struct {
    int64_t batch, length, channels, states; /* b, l, d, n */
    int64_t group, chunk;                    /* channels of a task (a multiple of VW), steps of a chunk */
    int64_t reverse, delta_softplus;
    rows u, delta, z;            /* (b, l, d); z.data may be NULL */
    rows B, C;                   /* (b, l, n) */
    const float *A;              /* (d, n) */
    const float *D, *delta_bias; /* (d,) or NULL */
    float *out;                  /* (b, l, d) */
    float *checkpoints;          /* (b, chunks, vectors of VW channels, n, VW) or NULL: the state before each chunk */
    _Atomic int64_t *next_task;
} scan;

typedef struct {
    rows dout;               /* (b, l, d) */
    float *du, *ddelta, *dz; /* (b, l, d); dz may be NULL where z is */
    float *dB, *dC;          /* (groups, b, l, n) */
    float *dA;               /* (b, d, n) */
    float *dD, *ddelta_bias; /* (b, d) */
} scan_gradients;

/* One vector of channels over one chunk: steps [begin, end) of sequence b, channels [channel, channel + width). */
typedef struct {
    int64_t b, begin, end, channel;
} piece;

INLINE int64_t time_of(const scan *p, int64_t t) { return p->reverse ? p->length - 1 - t : t; }

INLINE int64_t groups_of(const scan *p) { return (p->channels + p->group - 1) / p->group; }

INLINE vf *checkpoint_of(const scan *p, piece s) {
    int64_t chunks = (p->length + p->chunk - 1) / p->chunk, vectors = (p->channels + VW - 1) / VW;
    int64_t index = (s.b * chunks + s.begin / p->chunk) * vectors + s.channel / VW;
    return (vf *)p->checkpoints + index * p->states;
}

INLINE vf channels_of(const float *x, int64_t channel, int width) {
    return x ? load(x + channel, width) : broadcast(0.0f);
}

INLINE softplus_result step_size(const scan *p, vf delta) {
    if (p->delta_softplus) return softplus(delta);
    return (softplus_result){delta, broadcast(1.0f)};
}

INLINE void forward_piece(const scan *p, piece s, int width, int64_t states, const vf *restrict A2, vf *restrict h) {
    vf D = channels_of(p->D, s.channel, width), bias = channels_of(p->delta_bias, s.channel, width);
    for (int64_t t = s.begin; t < s.end; t++) {
        int64_t at = time_of(p, t);
        vf dt = step_size(p, load(row_of(p->delta, s.b, at) + s.channel, width) + bias).value;
        vf u = load(row_of(p->u, s.b, at) + s.channel, width);
        vf dtu = dt * u, y = D * u;
        const float *B = row_of(p->B, s.b, at), *C = row_of(p->C, s.b, at);
        UNROLL
        for (int64_t n = 0; n < states; n++) {
            h[n] = exp2_vector(dt * A2[n]) * h[n] + dtu * B[n];
            y += h[n] * C[n];
        }
        if (p->z.data) {
            vf z = load(row_of(p->z, s.b, at) + s.channel, width);
            y *= z * sigmoid(z);
        }
        store(p->out + (s.b * p->length + at) * p->channels + s.channel, y, width);
    }
}

/* A2 (A log2 e) and h are the group's, as (vectors, n). */
static void forward_task(const scan *p, int64_t b, int64_t g, vf *A2, vf *h) {
    int64_t first = g * p->group, last = minimum(p->channels, first + p->group), n = p->states;
    memset(A2, 0, (size_t)(p->group * n) * sizeof(float));
    memset(h, 0, (size_t)(p->group * n) * sizeof(float));
    for (int64_t i = 0; i < last - first; i++)
        for (int64_t j = 0; j < n; j++) A2[i / VW * n + j][i % VW] = LOG2_E * p->A[(first + i) * n + j];
    for (int64_t begin = 0; begin < p->length; begin += p->chunk) {
        int64_t end = minimum(p->length, begin + p->chunk);
        for (int64_t c = first; c < last; c += VW) {
            piece s = {b, begin, end, c};
            int64_t k = (c - first) / VW * n;
            if (p->checkpoints) memcpy(checkpoint_of(p, s), h + k, (size_t)n * sizeof(vf));
            /* 16 states, the usual number, as a constant: the loops over states are unrolled. */
            if (last - c >= VW && n == 16) forward_piece(p, s, VW, 16, A2 + k, h + k);
            else if (last - c >= VW) forward_piece(p, s, VW, n, A2 + k, h + k);
            else forward_piece(p, s, (int)(last - c), n, A2 + k, h + k);
        }
    }
}

/* What belongs to one vector of channels and one state, over all time. */
typedef struct {
    vf A, A2;        /* A2 = A log2 e */
    vf dh;           /* what the steps after the chunk say about the state that it ends in */
    vf dA, chunk_dA; /* over the chunks so far, and over the steps of this one: sums of sums lose fewer digits */
} rate;

/* One state of one step. Fields that are used together lie together: in arrays of their own, whose sizes are powers of
 * two, their addresses would differ by multiples of 4096 and stall each other. */
typedef struct {
    vf h, decay; /* of the vector of channels at work; h is the state after the step */
    vf dB, dC;   /* over all vectors of the group */
} cell;

/* One step, of the vector of channels at work. */
typedef struct {
    vf dt, slope, y;
} moment;

typedef struct {
    rate *rates;     /* (vectors, n) */
    vf *dD, *dbias;  /* (vectors,) */
    cell *cells;     /* (1 + chunk, n): the state before the chunk, then its steps */
    moment *moments; /* (chunk,) */
} workspace;

INLINE void recompute_piece(const scan *p, piece s, int width, int64_t states, const rate *restrict r, workspace w) {
    const vf *checkpoint = checkpoint_of(p, s);
    for (int64_t n = 0; n < states; n++) w.cells[n].h = checkpoint[n];
    vf D = channels_of(p->D, s.channel, width), bias = channels_of(p->delta_bias, s.channel, width);
    for (int64_t t = s.begin; t < s.end; t++) {
        int64_t at = time_of(p, t), j = t - s.begin;
        softplus_result dt = step_size(p, load(row_of(p->delta, s.b, at) + s.channel, width) + bias);
        vf u = load(row_of(p->u, s.b, at) + s.channel, width);
        vf dtu = dt.value * u, y = D * u;
        const float *B = row_of(p->B, s.b, at), *C = row_of(p->C, s.b, at);
        const cell *before = w.cells + j * states;
        cell *step = w.cells + (j + 1) * states;
        UNROLL
        for (int64_t n = 0; n < states; n++) {
            vf decay = exp2_vector(dt.value * r[n].A2), h = decay * before[n].h + dtu * B[n];
            y += h * C[n];
            step[n].decay = decay;
            step[n].h = h;
        }
        w.moments[j] = (moment){dt.value, dt.slope, y};
    }
}

INLINE void backward_piece(const scan *p, const scan_gradients *q, piece s, int width, int64_t states, int64_t k,
                           workspace w) {
    rate *restrict r = w.rates + k * states;
    recompute_piece(p, s, width, states, r, w);
    vf D = channels_of(p->D, s.channel, width), dD = broadcast(0.0f), dbias = broadcast(0.0f);
    for (int64_t n = 0; n < states; n++) r[n].chunk_dA = broadcast(0.0f);
    for (int64_t t = s.end - 1; t >= s.begin; t--) {
        int64_t at = time_of(p, t), j = t - s.begin, o = (s.b * p->length + at) * p->channels + s.channel;
        vf dy = load(row_of(q->dout, s.b, at) + s.channel, width);
        if (p->z.data) {
            vf z = load(row_of(p->z, s.b, at) + s.channel, width), gate = sigmoid(z);
            store(q->dz + o, dy * w.moments[j].y * (gate * (1.0f + z * (1.0f - gate))), width);
            dy *= z * gate;
        }
        vf u = load(row_of(p->u, s.b, at) + s.channel, width), dt = w.moments[j].dt, dtu = dt * u;
        vf dh_B = broadcast(0.0f), dh_hA = broadcast(0.0f);
        const float *B = row_of(p->B, s.b, at), *C = row_of(p->C, s.b, at);
        const cell *before = w.cells + j * states;
        cell *step = w.cells + (j + 1) * states;
        UNROLL
        for (int64_t n = 0; n < states; n++) {
            vf dh = r[n].dh + dy * C[n];
            step[n].dC += dy * step[n].h;
            step[n].dB += dh * dtu;
            dh_B += dh * B[n];
            dh *= step[n].decay;
            r[n].dh = dh;
            dh *= before[n].h;
            dh_hA += dh * r[n].A;
            r[n].chunk_dA += dh * dt;
        }
        vf ddelta = (dh_hA + u * dh_B) * w.moments[j].slope;
        store(q->du + o, D * dy + dt * dh_B, width);
        store(q->ddelta + o, ddelta, width);
        dD += dy * u;
        dbias += ddelta;
    }
    for (int64_t n = 0; n < states; n++) r[n].dA += r[n].chunk_dA;
    w.dD[k] += dD;
    w.dbias[k] += dbias;
}

/* dB and dC of one step, summed over lanes. */
static void store_dB_dC(const scan *p, const scan_gradients *q, int64_t b, int64_t g, int64_t t, const cell *step) {
    const int64_t stride = sizeof(cell) / sizeof(vf), n = p->states;
    int64_t o = ((g * p->batch + b) * p->length + time_of(p, t)) * n;
    for (int64_t i = 0; i < n; i += 4) {
        size_t bytes = (size_t)minimum(4, n - i) * sizeof(float);
        vf4 dB = sum_lanes(&step[i].dB, stride), dC = sum_lanes(&step[i].dC, stride);
        memcpy(q->dB + o + i, &dB, bytes);
        memcpy(q->dC + o + i, &dC, bytes);
    }
}

static void backward_task(const scan *p, const scan_gradients *q, int64_t b, int64_t g, workspace w) {
    int64_t first = g * p->group, last = minimum(p->channels, first + p->group), n = p->states;
    memset(w.rates, 0, (size_t)(p->group / VW * n) * sizeof(rate));
    memset(w.dD, 0, (size_t)p->group * sizeof(float));
    memset(w.dbias, 0, (size_t)p->group * sizeof(float));
    for (int64_t i = 0; i < last - first; i++)
        for (int64_t j = 0; j < n; j++) {
            float A = p->A[(first + i) * n + j];
            w.rates[i / VW * n + j].A[i % VW] = A;
            w.rates[i / VW * n + j].A2[i % VW] = LOG2_E * A;
        }
    for (int64_t begin = (p->length - 1) / p->chunk * p->chunk; begin >= 0; begin -= p->chunk) {
        int64_t end = minimum(p->length, begin + p->chunk);
        for (int64_t i = n; i < (1 + end - begin) * n; i++) w.cells[i].dB = w.cells[i].dC = broadcast(0.0f);
        for (int64_t c = first; c < last; c += VW) {
            piece s = {b, begin, end, c};
            if (last - c >= VW && n == 16) backward_piece(p, q, s, VW, 16, (c - first) / VW, w);
            else if (last - c >= VW) backward_piece(p, q, s, VW, n, (c - first) / VW, w);
            else backward_piece(p, q, s, (int)(last - c), n, (c - first) / VW, w);
        }
        for (int64_t t = begin; t < end; t++) store_dB_dC(p, q, b, g, t, w.cells + (1 + t - begin) * n);
    }
    for (int64_t i = 0; i < last - first; i++) {
        int64_t channel = b * p->channels + first + i;
        for (int64_t j = 0; j < n; j++) q->dA[channel * n + j] = w.rates[i / VW * n + j].dA[i % VW];
        q->dD[channel] = w.dD[i / VW][i % VW];
        q->ddelta_bias[channel] = w.dbias[i / VW][i % VW];
    }
}

/* Each returns 0, or 1 where there was no memory. Any number of threads may run one call on the same arguments. */
int selective_scan_forward(const scan *p) {
    int64_t states = p->group / VW * p->states, groups = groups_of(p);
    vf *memory = allocate(2 * (size_t)states * sizeof(vf));
    if (!memory) return 1;
    control_word mode = flush_denormals();
    for (int64_t i; (i = atomic_fetch_add(p->next_task, 1)) < p->batch * groups;)
        forward_task(p, i / groups, i % groups, memory, memory + states);
    restore_denormals(mode);
    free(memory);
    return 0;
}

int selective_scan_backward(const scan *p, const scan_gradients *q) {
    size_t vectors = (size_t)(p->group / VW), n = (size_t)p->states, chunk = (size_t)p->chunk;
    /* Three cells more than there are: their sums are taken four at a time. */
    size_t rates = vectors * n * sizeof(rate), cells = ((1 + chunk) * n + 3) * sizeof(cell);
    char *memory = allocate(rates + cells + chunk * sizeof(moment) + 2 * vectors * sizeof(vf));
    if (!memory) return 1;
    workspace w = {.rates = (rate *)memory, .cells = (cell *)(memory + rates)};
    w.moments = (moment *)(memory + rates + cells);
    w.dD = (vf *)(w.moments + chunk);
    w.dbias = w.dD + vectors;
    int64_t groups = groups_of(p);
    control_word mode = flush_denormals();
    for (int64_t i; (i = atomic_fetch_add(p->next_task, 1)) < p->batch * groups;)
        backward_task(p, q, i / groups, i % groups, w);
    restore_denormals(mode);
    free(memory);
    return 0;
}
