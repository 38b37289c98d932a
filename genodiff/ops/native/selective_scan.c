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

/* States that go through a chunk together, in registers, so that what the backward pass keeps of a chunk stays in the
 * first-level cache. The sums over lanes take four at a time. */
#define BLOCK 4

#if defined(__clang__)
#define UNROLL _Pragma("unroll 4")
#else
#define UNROLL _Pragma("GCC unroll 4")
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

INLINE int64_t blocks_of(const scan *p) { return (p->states + BLOCK - 1) / BLOCK; }

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

/* One step of a vector of channels: what does not depend on the states, and sums over them. In loops of their own,
 * softplus and sigmoid of many steps overlap; before the states of each step, every step would wait for them. */
typedef struct {
    vf dt, dtu, y;
    vf slope, dy, dgate, dh_B, dh_hA; /* of the backward pass alone */
} moment;

/* A block of states through a chunk. */
INLINE void forward_block(const scan *p, piece s, int64_t n, int64_t count, const vf *A2, vf *states, moment *m) {
    vf h[BLOCK];
    for (int64_t i = 0; i < count; i++) h[i] = states[i];
    for (int64_t t = s.begin; t < s.end; t++, m++) {
        const float *B = row_of(p->B, s.b, time_of(p, t)) + n, *C = row_of(p->C, s.b, time_of(p, t)) + n;
        vf dt = m->dt, dtu = m->dtu, y = m->y;
        UNROLL
        for (int64_t i = 0; i < count; i++) {
            h[i] = exp2_vector(dt * A2[i]) * h[i] + dtu * B[i];
            y += h[i] * C[i];
        }
        m->y = y;
    }
    for (int64_t i = 0; i < count; i++) states[i] = h[i];
}

INLINE void forward_piece(const scan *p, piece s, int width, const vf *A2, vf *h, moment *moments) {
    vf D = channels_of(p->D, s.channel, width), bias = channels_of(p->delta_bias, s.channel, width);
    for (int64_t t = s.begin; t < s.end; t++) {
        int64_t at = time_of(p, t);
        moment *m = moments + (t - s.begin);
        vf u = load(row_of(p->u, s.b, at) + s.channel, width);
        m->dt = step_size(p, load(row_of(p->delta, s.b, at) + s.channel, width) + bias).value;
        m->dtu = m->dt * u;
        m->y = D * u;
    }
    for (int64_t n = 0; n < p->states; n += BLOCK) {
        if (p->states - n >= BLOCK) forward_block(p, s, n, BLOCK, A2 + n, h + n, moments);
        else forward_block(p, s, n, p->states - n, A2 + n, h + n, moments);
    }
    for (int64_t t = s.begin; t < s.end; t++) {
        int64_t at = time_of(p, t);
        vf y = moments[t - s.begin].y;
        if (p->z.data) {
            vf z = load(row_of(p->z, s.b, at) + s.channel, width);
            y *= z * sigmoid(z);
        }
        store(p->out + (s.b * p->length + at) * p->channels + s.channel, y, width);
    }
}

/* A2 (A log2 e) and h are the group's, as (vectors, n). */
static void forward_task(const scan *p, int64_t b, int64_t g, vf *A2, vf *h, moment *moments) {
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
            if (last - c >= VW) forward_piece(p, s, VW, A2 + k, h + k, moments);
            else forward_piece(p, s, (int)(last - c), A2 + k, h + k, moments);
        }
    }
}

/* What belongs to one vector of channels and one state, over all time. */
typedef struct {
    vf A, A2; /* A2 = A log2 e */
    vf dh;    /* what the steps after the chunk say about the state that it ends in */
    vf dA;
} rate;

/* One state at one step. Fields that are used together lie together: in arrays of their own, whose sizes are powers of
 * two, their addresses would differ by multiples of 4096 and stall each other. */
typedef struct {
    vf decay, decayed; /* exp(dt A), and the state before the step times that */
} cell;

typedef struct {
    vf dB, dC; /* over the vectors of the group */
} partial_sums;

typedef struct {
    rate *rates;        /* (vectors, n) */
    vf *dD, *dbias;     /* (vectors,) */
    partial_sums *sums; /* (blocks, chunk, BLOCK) */
    cell *cells;        /* (chunk, BLOCK) */
    moment *moments;    /* (chunk,) */
} workspace;

/* A block of states of one chunk: forth again from the checkpoint, then back. dA is summed over the chunk alone first,
 * because sums of sums lose fewer digits. */
INLINE void backward_block(const scan *p, piece s, int64_t n, int64_t count, rate *r, workspace w) {
    partial_sums *sums = w.sums + n * p->chunk;
    vf h[BLOCK], dh[BLOCK], dA[BLOCK];
    for (int64_t i = 0; i < count; i++) h[i] = checkpoint_of(p, s)[n + i];
    for (int64_t t = s.begin, j = 0; t < s.end; t++, j++) {
        const float *B = row_of(p->B, s.b, time_of(p, t)) + n, *C = row_of(p->C, s.b, time_of(p, t)) + n;
        moment *m = w.moments + j;
        vf dt = m->dt, dtu = m->dtu, dy = m->dy, y = m->y;
        UNROLL
        for (int64_t i = 0; i < count; i++) {
            vf decay = exp2_vector(dt * r[i].A2), decayed = decay * h[i];
            w.cells[j * BLOCK + i] = (cell){decay, decayed};
            h[i] = decayed + dtu * B[i];
            y += h[i] * C[i];
            sums[j * BLOCK + i].dC += dy * h[i];
        }
        m->y = y;
    }
    for (int64_t i = 0; i < count; i++) dh[i] = r[i].dh, dA[i] = broadcast(0.0f);
    for (int64_t t = s.end - 1, j = t - s.begin; t >= s.begin; t--, j--) {
        const float *B = row_of(p->B, s.b, time_of(p, t)) + n, *C = row_of(p->C, s.b, time_of(p, t)) + n;
        moment *m = w.moments + j;
        vf dt = m->dt, dtu = m->dtu, dy = m->dy, dh_B = m->dh_B, dh_hA = m->dh_hA;
        UNROLL
        for (int64_t i = 0; i < count; i++) {
            cell x = w.cells[j * BLOCK + i];
            dh[i] += dy * C[i];
            sums[j * BLOCK + i].dB += dh[i] * dtu;
            dh_B += dh[i] * B[i];
            vf decayed = dh[i] * x.decayed;
            dh_hA += decayed * r[i].A;
            dA[i] += decayed * dt;
            dh[i] *= x.decay;
        }
        m->dh_B = dh_B;
        m->dh_hA = dh_hA;
    }
    for (int64_t i = 0; i < count; i++) r[i].dh = dh[i], r[i].dA += dA[i];
}

INLINE void backward_piece(const scan *p, const scan_gradients *q, piece s, int width, int64_t k, workspace w) {
    vf D = channels_of(p->D, s.channel, width), bias = channels_of(p->delta_bias, s.channel, width);
    for (int64_t t = s.begin; t < s.end; t++) {
        int64_t at = time_of(p, t);
        moment *m = w.moments + (t - s.begin);
        softplus_result dt = step_size(p, load(row_of(p->delta, s.b, at) + s.channel, width) + bias);
        vf u = load(row_of(p->u, s.b, at) + s.channel, width), dy = load(row_of(q->dout, s.b, at) + s.channel, width);
        *m = (moment){.dt = dt.value, .slope = dt.slope, .dtu = dt.value * u, .y = D * u, .dy = dy};
        if (p->z.data) {
            vf z = load(row_of(p->z, s.b, at) + s.channel, width), gate = sigmoid(z);
            m->dgate = dy * (gate * (1.0f + z * (1.0f - gate)));
            m->dy = dy * (z * gate);
        }
    }
    for (int64_t n = 0; n < p->states; n += BLOCK) {
        if (p->states - n >= BLOCK) backward_block(p, s, n, BLOCK, w.rates + k * p->states + n, w);
        else backward_block(p, s, n, p->states - n, w.rates + k * p->states + n, w);
    }
    vf dD = broadcast(0.0f), dbias = broadcast(0.0f);
    for (int64_t t = s.begin; t < s.end; t++) {
        int64_t at = time_of(p, t), o = (s.b * p->length + at) * p->channels + s.channel;
        const moment *m = w.moments + (t - s.begin);
        vf u = load(row_of(p->u, s.b, at) + s.channel, width), ddelta = (m->dh_hA + u * m->dh_B) * m->slope;
        store(q->du + o, D * m->dy + m->dt * m->dh_B, width);
        store(q->ddelta + o, ddelta, width);
        if (p->z.data) store(q->dz + o, m->dgate * m->y, width);
        dD += m->dy * u;
        dbias += ddelta;
    }
    w.dD[k] += dD;
    w.dbias[k] += dbias;
}

/* dB and dC of a chunk, summed over lanes. */
static void store_dB_dC(const scan *p, const scan_gradients *q, piece s, int64_t g, const partial_sums *sums) {
    const int64_t stride = sizeof(partial_sums) / sizeof(vf);
    for (int64_t n = 0; n < p->states; n += BLOCK) {
        size_t bytes = (size_t)minimum(BLOCK, p->states - n) * sizeof(float);
        for (int64_t t = s.begin; t < s.end; t++) {
            const partial_sums *x = sums + n * p->chunk + (t - s.begin) * BLOCK;
            int64_t o = ((g * p->batch + s.b) * p->length + time_of(p, t)) * p->states + n;
            vf4 dB = sum_lanes(&x->dB, stride), dC = sum_lanes(&x->dC, stride);
            memcpy(q->dB + o, &dB, bytes);
            memcpy(q->dC + o, &dC, bytes);
        }
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
        piece s = {b, begin, minimum(p->length, begin + p->chunk), first};
        memset(w.sums, 0, (size_t)(blocks_of(p) * p->chunk * BLOCK) * sizeof(partial_sums));
        for (; s.channel < last; s.channel += VW) {
            int64_t k = (s.channel - first) / VW;
            if (last - s.channel >= VW) backward_piece(p, q, s, VW, k, w);
            else backward_piece(p, q, s, (int)(last - s.channel), k, w);
        }
        store_dB_dC(p, q, s, g, w.sums);
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
    vf *memory = allocate(2 * (size_t)states * sizeof(vf) + (size_t)p->chunk * sizeof(moment));
    if (!memory) return 1;
    control_word mode = flush_denormals();
    for (int64_t i; (i = atomic_fetch_add(p->next_task, 1)) < p->batch * groups;)
        forward_task(p, i / groups, i % groups, memory, memory + states, (moment *)(memory + 2 * states));
    restore_denormals(mode);
    free(memory);
    return 0;
}

int selective_scan_backward(const scan *p, const scan_gradients *q) {
    size_t vectors = (size_t)(p->group / VW), chunk = (size_t)p->chunk;
    size_t rates = vectors * (size_t)p->states * sizeof(rate);
    size_t sums = (size_t)blocks_of(p) * chunk * BLOCK * sizeof(partial_sums);
    size_t cells = chunk * BLOCK * sizeof(cell), moments = chunk * sizeof(moment);
    char *memory = allocate(rates + sums + cells + moments + 2 * vectors * sizeof(vf));
    if (!memory) return 1;
    workspace w = {.rates = (rate *)memory};
    w.sums = (partial_sums *)(memory + rates);
    w.cells = (cell *)(memory + rates + sums);
    w.moments = (moment *)(memory + rates + sums + cells);
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
