/* Which of the builds this processor can run; asked of the one for the lowest level. */
#if defined(__x86_64__)
#define HAS __builtin_cpu_supports
#endif

/* The x86-64 level (2, 3 or 4) of this processor under its operating system; 0 where it has none of them. */
int cpu_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!HAS("sse4.2") || !HAS("popcnt")) return 0;
    if (!HAS("avx2") || !HAS("fma") || !HAS("bmi") || !HAS("bmi2")) return 2;
    if (!HAS("avx512f") || !HAS("avx512bw") || !HAS("avx512cd") || !HAS("avx512dq") || !HAS("avx512vl")) return 3;
    return 4;
#else
    return 0;
#endif
}
