/* Vectors of VW floats, and the few functions of them that the kernels need.
 *
 * Only GCC's and Clang's vector extensions are used, so one source serves every instruction set; VW (4, 8 or 16) and
 * the set are chosen by the compiler's command line. No function here hides a NaN: torch must see it in the loss.
 */
#ifndef GENODIFF_VECTOR_H
#define GENODIFF_VECTOR_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef VW
#error "define VW, the number of floats in a vector: -DVW=4, 8 or 16"
#endif

typedef float vf __attribute__((vector_size(4 * VW), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * VW)));
typedef float vf_unaligned __attribute__((vector_size(4 * VW), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

/* Rows of a (b, l, k) tensor whose last axis is contiguous: element (b, t, i) is data[b * batch + t * row + i]. */
typedef struct {
    const float *data;
    int64_t batch, row;
} rows;

INLINE const float *row_of(rows x, int64_t b, int64_t t) { return x.data + b * x.batch + t * x.row; }

INLINE int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }

/* Scratch memory, aligned for the widest vectors; NULL where there is none. */
INLINE void *allocate(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

INLINE vf broadcast(float x) { return x - (vf){0}; }

/* `width` lanes from memory, zero in the rest; the compiler drops the test where width is the constant VW. */
INLINE vf load(const float *from, int width) {
    if (width == VW) return *(const vf_unaligned *)from;
    vf x = {0};
    memcpy(&x, from, (size_t)width * sizeof(float));
    return x;
}

INLINE void store(float *to, vf x, int width) {
    if (width == VW)
        *(vf_unaligned *)to = x;
    else
        memcpy(to, &x, (size_t)width * sizeof(float));
}

INLINE vf choose(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }

/* max(bound, x) and min(bound, x), NaN where x is NaN (which is what the x86 instructions do in this order). */
INLINE vf at_least(float bound, vf x) {
    vf b = broadcast(bound);
#if defined(__AVX512F__) && VW == 16
    return (vf)_mm512_max_ps((__m512)b, (__m512)x);
#elif defined(__AVX__) && VW == 8
    return (vf)_mm256_max_ps((__m256)b, (__m256)x);
#elif defined(__SSE2__) && VW == 4
    return (vf)_mm_max_ps((__m128)b, (__m128)x);
#else
    return choose(b > x, b, x);
#endif
}

INLINE vf at_most(float bound, vf x) {
    vf b = broadcast(bound);
#if defined(__AVX512F__) && VW == 16
    return (vf)_mm512_min_ps((__m512)b, (__m512)x);
#elif defined(__AVX__) && VW == 8
    return (vf)_mm256_min_ps((__m256)b, (__m256)x);
#elif defined(__SSE2__) && VW == 4
    return (vf)_mm_min_ps((__m128)b, (__m128)x);
#else
    return choose(b < x, b, x);
#endif
}

/* 2^f for |f| <= 1/2: minimax polynomial of degree 6, relative error 2e-9. */
INLINE vf exp2_fraction(vf f) {
    vf p = broadcast(1.535336188319500e-4f);
    p = p * f + 1.339887440266574e-3f;
    p = p * f + 9.618437357674640e-3f;
    p = p * f + 5.550332471162809e-2f;
    p = p * f + 2.402264791363012e-1f;
    p = p * f + 6.931472028550421e-1f;
    return p * f + 1.0f;
}

/* Adding 1.5 * 2^23 + 127 to x leaves round(x) + 127, an exponent field, in the low bits of the sum. */
#define ROUND_TO_EXPONENT (12582912.0f + 127.0f)

INLINE vf exponent_to_scale(vf rounded) { return (vf)((vi)rounded << 23); }

/* 2^x: exactly 0 below 2^-126, infinity from 2^127.5, NaN of NaN. */
INLINE vf exp2_vector(vf x) {
    x = at_most(128.0f, at_least(-127.0f, x));
    vf rounded = x + ROUND_TO_EXPONENT;
    return exp2_fraction(x - (rounded - ROUND_TO_EXPONENT)) * exponent_to_scale(rounded);
}

#define LOG2_E 1.44269504088896340736f
/* ln 2 in two parts: products of the first, 355 / 512, with small integers are exact. */
#define LN_2_HIGH 0.693359375f
#define LN_2_LOW -2.12194440e-4f

/* e^x for x <= 0, as precise where it is tiny; below 2^-127 the scale is 0 and the fraction only has to be finite. */
INLINE vf exp_negative(vf x) {
    vf y = at_least(-127.0f, x * LOG2_E);
    vf rounded = y + ROUND_TO_EXPONENT;
    vf integer = rounded - ROUND_TO_EXPONENT;
    vf rest = (x - integer * LN_2_HIGH) - integer * LN_2_LOW;
    return exp2_fraction(at_least(-1.0f, rest * LOG2_E)) * exponent_to_scale(rounded);
}

INLINE vf absolute_negative(vf x) { return (vf)((vi)x | INT32_MIN); } /* -|x| */

INLINE vf sigmoid(vf x) {
    vf e = exp_negative(absolute_negative(x));
    vf r = 1.0f / (1.0f + e);
    return choose(x > 0.0f, r, e * r);
}

typedef struct {
    vf value, slope;
} softplus_result;

/* log(1 + e^x) = max(x, 0) + log(1 + e), e = e^-|x|, by 2 artanh(e / (e + 2)); its slope is the sigmoid. */
INLINE softplus_result softplus(vf x) {
    vf e = exp_negative(absolute_negative(x));
    vf s = e / (e + 2.0f), s2 = s * s;
    vf p = broadcast(1.0f / 15);
    p = p * s2 + 1.0f / 13;
    p = p * s2 + 1.0f / 11;
    p = p * s2 + 1.0f / 9;
    p = p * s2 + 1.0f / 7;
    p = p * s2 + 1.0f / 5;
    p = p * s2 + 1.0f / 3;
    p = p * s2 + 1.0f;
    vf r = 1.0f / (1.0f + e);
    return (softplus_result){2.0f * s * p + at_least(0.0f, x), choose(x > 0.0f, r, e * r)};
}

typedef float vf4 __attribute__((vector_size(16), may_alias));

#if defined(__clang__)
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (int32_t __attribute__((vector_size(16)))){i, j, k, l})
#endif

/* Sums over the lanes of four vectors, `stride` vectors apart. */
INLINE vf4 sum_lanes(const vf *x, int64_t stride) {
    vf4 quarter[4];
    for (int i = 0; i < 4; i++) {
        const vf4 *part = (const vf4 *)(x + i * stride);
        quarter[i] = part[0];
        for (int j = 1; j < VW / 4; j++) quarter[i] += part[j];
    }
    vf4 a = SHUFFLE(quarter[0], quarter[1], 0, 4, 1, 5) + SHUFFLE(quarter[0], quarter[1], 2, 6, 3, 7);
    vf4 b = SHUFFLE(quarter[2], quarter[3], 0, 4, 1, 5) + SHUFFLE(quarter[2], quarter[3], 2, 6, 3, 7);
    return SHUFFLE(a, b, 0, 1, 4, 5) + SHUFFLE(a, b, 2, 3, 6, 7);
}

/* Decaying states become denormal over long runs of N or padding, and denormal arithmetic is ten times slower: the
 * kernels flush it to zero, and hand the thread's mode back as they found it. */
#if defined(__x86_64__)
typedef unsigned int control_word;
INLINE control_word flush_denormals(void) {
    control_word before = _mm_getcsr();
    _mm_setcsr(before | 0x8040); /* FTZ and DAZ */
    return before;
}
INLINE void restore_denormals(control_word before) { _mm_setcsr(before); }
#elif defined(__aarch64__)
typedef uint64_t control_word;
INLINE control_word flush_denormals(void) {
    control_word before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | (UINT64_C(1) << 24))); /* FZ */
    return before;
}
INLINE void restore_denormals(control_word before) { __asm__ volatile("msr fpcr, %0" : : "r"(before)); }
#else
typedef int control_word;
INLINE control_word flush_denormals(void) { return 0; }
INLINE void restore_denormals(control_word before) { (void)before; }
#endif

#endif
