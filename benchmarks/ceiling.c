/* What one core of this processor can do at the most: multiply-adds in registers and nothing else, for a second or so.
   Prints operations per second, a multiply-add counted as two: in float32, and in bfloat16 where vector instructions are
   the fastest for it. It is 0 without them, and with AMX, whose tiles are many times faster. */
#include <stdio.h>
#include <time.h>
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
#define VECTOR_BF16
#endif
#ifdef VECTOR_BF16
#include <immintrin.h>
#endif

#ifdef __AVX512F__
#define BYTES 64
#else
#define BYTES 32
#endif
#define CHAINS 12 /* independent sums, so that no instruction waits for the one before */

typedef float vector __attribute__((vector_size(BYTES)));

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return time.tv_sec + 1e-9 * time.tv_nsec;
}

int main(int count, char **words)
{
    const long turns = 50 * 1000 * 1000;
    volatile float kept;
    vector sums[CHAINS], factor = (vector){0} + 0.5f * count, added = factor; /* unknown to the compiler */
    double began, single, half = 0;
    for (int i = 0; i < CHAINS; i++)
        sums[i] = factor * (float)i; /* all different, or the compiler keeps one */
    began = now();
    for (long turn = 0; turn < turns; turn++)
        for (int i = 0; i < CHAINS; i++)
            sums[i] = sums[i] * factor + added;
    single = 2.0 * CHAINS * (BYTES / sizeof(float)) * turns / (now() - began);
    for (int i = 0; i < CHAINS; i++)
        kept = sums[i][0];
#ifdef VECTOR_BF16
    __m512 pairs[CHAINS];
    __m512bh values = (__m512bh)_mm512_setzero_si512();
    for (int i = 0; i < CHAINS; i++)
        pairs[i] = _mm512_set1_ps(i);
    began = now();
    for (long turn = 0; turn < turns; turn++)
        for (int i = 0; i < CHAINS; i++)
            pairs[i] = _mm512_dpbf16_ps(pairs[i], values, values);
    half = 2.0 * CHAINS * 32 * turns / (now() - began);
    for (int i = 0; i < CHAINS; i++)
        kept = _mm512_reduce_add_ps(pairs[i]);
#endif
    (void)kept, (void)words;
    printf("%.0f %.0f\n", single, half);
    return 0;
}
