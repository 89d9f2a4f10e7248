/* The private kernel under a compiler's sanitizers: many shapes, each array of exactly the size that it is said to have.
 * It includes the source, so that nothing but what is tested here is compiled otherwise than for use. */
#include "native_private.c"

#include "native_private_jobs.h"

static void one(const int64_t *widths, int64_t layers, int biased, int64_t taken, int64_t columns, int spoilt) {
    struct network net = {.layers = layers};
    long size = 0;
    for (long n = 0; n <= layers; n++) net.width[n] = widths[n];
    for (long n = 0; n < layers; n++) net.biased[n] = biased, size += widths[n + 1] * (widths[n] + biased);
    struct job jobs[2] = {made(size, taken, columns, spoilt, 1e300)};
    jobs[1] = jobs[0], jobs[1].taken = taken / 2;
    double *space = calloc(space_for(&net, taken), sizeof *space);
    for (int per_layer = 0; per_layer < 2; per_layer++)
        clipped_sums(&net, per_layer, jobs, 2, space, taken);
    free(space), let_go(jobs[0]);
}

int main(void) {
    const int64_t shapes[][5] = {{1, 1, 0}, {5, 1, 0}, {1, 2, 1, 0}, {7, 9, 1, 0}, {8, 4, 1, 0}, {13, 17, 6, 1, 0}};
    for (unsigned s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t layers = 0;
        while (shapes[s][layers + 1]) layers++;
        for (int64_t taken = 0; taken < 14; taken++)
            for (int spoilt = 0; spoilt < 4; spoilt++)
                one(shapes[s], layers, taken % 3 != 0, taken, shapes[s][0] + taken % 2, spoilt);
    }
    uint32_t *packed = malloc((ALIAS + 1) * sizeof *packed);
    for (uint32_t i = 0; i <= ALIAS; i++) packed[i] = i * 2654435761u;
    for (int64_t n = 0; n < 40; n += 2) {
        uint32_t *words = malloc(n * sizeof *words);
        int32_t *values = malloc(n * sizeof *values);
        int64_t *undecided = malloc(n * sizeof *undecided);
        double *sums = malloc(n / 2 * sizeof *sums);
        for (int64_t i = 0; i < n; i++) words[i] = i % 3 ? (uint32_t)(state += 0x9E3779B9u) : packed[i] / 32768 * 32768 + (uint32_t)i;
        for (int64_t i = 0; i < n / 2; i++) sums[i] = uniform();
        if (look_up(words, n, packed, values, undecided) > n) exit(3);
        add_noise(sums, n / 2, values, 480, 1e-5);
        free(words), free(values), free(undecided), free(sums);
    }
    free(packed);
    return 0;
}
