/* The kernel of plain training under a compiler's sanitizers: many shapes, each array of exactly the size that it is said to have.
 * It includes the source, so that nothing but what is tested here is compiled otherwise than for use. */
#include "native.c"

#include "native_driver.h"

enum { HOSPITALS = 3 };

static REAL *drawn(long n, double scale) {
    REAL *found = malloc(n * sizeof *found);
    for (long i = 0; i < n; i++) found[i] = scale * uniform();
    return found;
}

/* Hospitals of one patient and of more; spoilt 1: rows, 2: weights of the second that are no numbers, 3: all far too large. */
static void make(struct job *jobs, const struct training *t, long size, int64_t columns, int spoilt, int is_pulled) {
    for (int j = 0; j < HOSPITALS; j++) {
        const int64_t patients = 1 + 5 * j, steps = 3 * j, passes = (patients + t->batch - 1) / t->batch;
        const int64_t order = (steps + passes - 1) / passes * patients;
        REAL *x = drawn(patients * columns, 10), *y = drawn(patients, 1), *weights = drawn(size, spoilt == 3 ? 1e30 : 1);
        int64_t *who = malloc(order * sizeof *who);
        for (int64_t i = 0; i < patients; i++) y[i] = y[i] < 0;
        for (int64_t i = 0; i < order; i++) who[i] = patients - 1 - i % patients;
        if (spoilt == 1) x[0] = NAN, x[patients * columns - 1] = INFINITY;
        if (spoilt == 2 && j == 1) weights[0] = INFINITY, weights[size - 1] = NAN;
        REAL *anchor = is_pulled ? drawn(size, 1) : NULL, *shift = is_pulled ? drawn(size, 1) : NULL;
        jobs[j] = (struct job){x, y, who, weights, anchor, shift, patients, columns, steps, 0};
    }
}

static void let_go(struct job *jobs) {
    for (int j = 0; j < HOSPITALS; j++) {
        free((void *)jobs[j].x), free((void *)jobs[j].y), free((void *)jobs[j].order), free(jobs[j].weights);
        free((void *)jobs[j].anchor), free((void *)jobs[j].shift);
    }
}

/* As `fit`, but each part of the space stands alone, so that a step past its end is found: in one space it would lie in the next. */
static void fit_apart(const struct network *net, const struct training *t, struct job *jobs) {
    const long rows = whole(t->batch, ROWS);
    struct layer l[MOST_LAYERS];
    struct room r;
    const long size = lay_out(net, rows, l, &r, NULL);
    REAL *space = malloc(size * sizeof *space), *starts[6 + 3 * MOST_LAYERS + 2];
    lay_out(net, rows, l, &r, space);
    REAL **parts[6 + 3 * MOST_LAYERS + 1] = {&r.weight, &r.gradient, &r.first, &r.second, &r.anchor, &r.shift};
    long count = 6;
    for (long n = 0; n < net->layers; n++)
        parts[count++] = &l[n].turned, parts[count++] = &l[n].came, parts[count++] = &l[n].slope;
    parts[count++] = &r.scores;
    for (long i = 0; i < count; i++) starts[i] = *parts[i];
    starts[count] = space + size;
    for (long i = 0; i < count; i++) *parts[i] = calloc(starts[i + 1] - starts[i], sizeof(REAL));
    for (long n = 0; n < net->layers; n++)
        l[n].gradient = r.gradient + (l[n].weight - starts[0]), l[n].weight = r.weight + (l[n].weight - starts[0]);
    train_all(l, net, t, jobs, HOSPITALS, rows, &r);
    for (long i = 0; i < count; i++) free(*parts[i]);
    free(space);
}

static void one(const int64_t *widths, int64_t layers, int biased, const struct training *t, int64_t columns, int spoilt, int is_pulled) {
    struct network net = {.layers = layers};
    struct job jobs[HOSPITALS], same[HOSPITALS];
    long size = 0;
    for (long n = 0; n <= layers; n++) net.width[n] = widths[n];
    for (long n = 0; n < layers; n++) net.biased[n] = biased, size += widths[n + 1] * (widths[n] + biased);
    const uint64_t before = state;
    make(jobs, t, size, columns, spoilt, is_pulled);
    state = before;
    make(same, t, size, columns, spoilt, is_pulled);
    if (fit(&net, t, jobs, HOSPITALS)) exit(3);
    fit_apart(&net, t, same);
    for (int j = 0; j < HOSPITALS; j++)
        if (memcmp(jobs[j].weights, same[j].weights, size * sizeof(REAL))) exit(4);
    let_go(jobs), let_go(same);
}

int main(void) {
    const int64_t shapes[][5] = {{1, 1, 0}, {5, 1, 0}, {1, 2, 1, 0}, {7, 9, 1, 0}, {8, 4, 1, 0}, {13, 17, 6, 1, 0}};
    /* A mini-batch, AdamW or not, the rate, momentum, decay, both betas, the clip and the pull. */
    const struct training trainings[] = {
        {1, 0, 0.1, 0, 0, 0, 0, 0, 0}, {3, 0, 0.1, 0.9, 0.1, 0, 0, 0.5, 0.3}, {4, 1, 0.1, 0, 0.1, 0.9, 0.999, 0, 0},
        {7, 1, 0.1, 0, 0, 0.9, 0.999, 0.5, 0.3}, {11, 0, 0.1, 0, 0.1, 0, 0, 0, 0.3},
    };
    for (unsigned s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t layers = 0;
        while (shapes[s][layers + 1]) layers++;
        for (unsigned t = 0; t < sizeof trainings / sizeof *trainings; t++)
            for (int spoilt = 0; spoilt < 4; spoilt++)
                for (int rest = 0; rest < 4; rest++)
                    one(shapes[s], layers, rest % 2, trainings + t, shapes[s][0] + rest % 2, spoilt, rest / 2);
    }
    return 0;
}
