/* Training of small fully connected networks, one hospital after the other, with its weights in the core's cache.
 *
 * Each hospital goes through all its mini-batches before the next begins, so its weights, gradients and activations
 * stay where the processor reaches them at once, and a step is a handful of matrix products without a call between.
 * What is worked out is what `kernels.fit` works out; the order of additions differs.
 *
 * Compiled by `kernels.native` with -DREAL=float or double. All arrays of the caller are of that type. Here a layer's
 * weights are [inputs and bias, outputs], padded with zeros to whole vectors; activations are [rows, inputs, 1, zeros].
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES ((long)(32 / sizeof(REAL)))
#define ROWS 4 /* of a tile, which stays in registers */
#define MOST_LAYERS 16
#define INLINE static inline __attribute__((always_inline))

typedef REAL vec __attribute__((vector_size(32)));
typedef REAL loose __attribute__((vector_size(32), aligned(sizeof(REAL)), may_alias)); /* a vector anywhere */

struct network {
    int64_t layers;               /* linear ones, with max(x, 0) between */
    int64_t width[MOST_LAYERS + 1]; /* of what comes in, then of what each layer gives; the last is 1 */
    int64_t biased[MOST_LAYERS];
};

struct training {
    int64_t batch, adam;
    double rate, momentum, decay, beta1, beta2, clip, strength; /* clip 0: none */
};

struct job {
    const REAL *x;        /* [patients, columns] */
    const REAL *y;        /* [patients] */
    const int64_t *order; /* the patients of each pass, one pass after the other */
    REAL *weights;        /* as torch has them, one array after the other; where training starts, and what it gives */
    const REAL *anchor;   /* as the weights, or none */
    const REAL *shift;
    int64_t patients, columns, steps;
    double loss; /* what is given: the mean over steps of the mean log loss */
};

struct layer {
    long in, depth, out, wide; /* inputs, with the bias, outputs, outputs padded */
    long stride;               /* of a row of what comes in */
    REAL *weight, *gradient;   /* [depth padded to ROWS, wide] */
    REAL *turned;              /* [out, in padded], the weights without the bias, transposed */
    REAL *came, *slope;        /* [rows, stride] what came in; [rows, wide] the gradient of what was given */
};

/* What the layers share, [size] each but for the scores; the weights and gradients of all stand one after the other. */
struct room {
    long size;
    REAL *weight, *gradient, *first, *second, *anchor, *shift;
    REAL *scores; /* [rows, wide of the last] */
};

INLINE long whole(long n, long of) { return (n + of - 1) / of * of; }

/* c[i][:] = sum over k of a(i, k) b[k][:], for ROWS rows and so many vectors; a(i, k) is a[i * down + k * along]. */
INLINE void tile(const REAL *a, long down, long along, const REAL *b, long b_row, REAL *c, long c_row, long depth,
                 const int vectors) {
    vec sum[ROWS][2] = {0};
    for (long k = 0; k < depth; k++) {
        for (int i = 0; i < ROWS; i++) {
            const REAL one = a[i * down + k * along];
            for (int v = 0; v < vectors; v++) sum[i][v] += one * *(const loose *)(b + k * b_row + v * LANES);
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < vectors; v++) *(loose *)(c + i * c_row + v * LANES) = sum[i][v];
}

/* The product, `rows` being whole tiles and `wide` whole vectors. */
static void product(const REAL *a, long down, long along, const REAL *b, long b_row, REAL *c, long c_row, long rows,
                    long depth, long wide) {
    for (long i = 0; i < rows; i += ROWS) {
        long j = 0;
        for (; j + 2 * LANES <= wide; j += 2 * LANES)
            tile(a + i * down, down, along, b + j, b_row, c + i * c_row + j, c_row, depth, 2);
        if (j < wide) tile(a + i * down, down, along, b + j, b_row, c + i * c_row + j, c_row, depth, 1);
    }
}

/* Between the caller's arrays, [outputs, inputs] and then the biases, and a layer's own; how many were passed. */
static long put(const struct layer *l, REAL *own, const REAL *theirs) {
    for (long o = 0; o < l->out; o++)
        for (long i = 0; i < l->in; i++) own[i * l->wide + o] = theirs[o * l->in + i];
    if (l->depth > l->in) memcpy(own + l->in * l->wide, theirs + l->out * l->in, l->out * sizeof(REAL));
    return l->out * l->depth;
}

static long get(const struct layer *l, const REAL *own, REAL *theirs) {
    for (long o = 0; o < l->out; o++)
        for (long i = 0; i < l->in; i++) theirs[o * l->in + i] = own[i * l->wide + o];
    if (l->depth > l->in) memcpy(theirs + l->out * l->in, own + l->in * l->wide, l->out * sizeof(REAL));
    return l->out * l->depth;
}

static void put_all(const struct layer *l, long layers, const REAL *origin, REAL *own, const REAL *theirs) {
    for (long i = 0; i < layers; i++) theirs += put(l + i, own + (l[i].weight - origin), theirs);
}

/* Scores of the rows in the first layer's `came`, left in `scores`, [rows, wide]. */
static void forward(struct layer *l, long layers, long rows, REAL *scores) {
    for (long n = 0; n < layers; n++) {
        const int is_last = n == layers - 1;
        REAL *gave = is_last ? scores : l[n + 1].came;
        const long stride = is_last ? l[n].wide : l[n + 1].stride;
        product(l[n].came, l[n].stride, 1, l[n].weight, l[n].wide, gave, stride, rows, l[n].depth, l[n].wide);
        if (is_last) return;
        for (long r = 0; r < rows; r++) {
            REAL *row = gave + r * stride;
            for (long j = 0; j < l[n].wide; j++) row[j] = row[j] < 0 ? 0 : row[j]; /* what is no number stays none */
            if (l[n + 1].depth > l[n + 1].in) row[l[n].out] = 1;
        }
    }
}

/* The gradients of all weights, from the last layer's `slope`. */
static void backward(struct layer *l, long layers, long rows) {
    for (long n = layers - 1; n >= 0; n--) {
        product(l[n].came, 1, l[n].stride, l[n].slope, l[n].wide, l[n].gradient, l[n].wide, whole(l[n].depth, ROWS), rows,
                l[n].wide);
        if (n == 0) return;
        const long back = l[n - 1].wide;
        for (long i = 0; i < l[n].in; i++)
            for (long o = 0; o < l[n].out; o++) l[n].turned[o * back + i] = l[n].weight[i * l[n].wide + o];
        product(l[n].slope, l[n].wide, 1, l[n].turned, back, l[n - 1].slope, back, rows, l[n].out, back);
        for (long r = 0; r < rows; r++)
            for (long j = 0; j < back; j++) {
                REAL *slope = l[n - 1].slope + r * back + j;
                *slope = l[n].came[r * l[n].stride + j] <= 0 ? 0 : *slope;
            }
    }
}

/* What the optimiser, clipping and the pull make of the gradients; `size` is whole vectors. */
static void step(const struct training *t, long size, long taken, REAL *w, REAL *g, REAL *first, REAL *second,
                 const REAL *anchor, const REAL *shift) {
    const REAL rate = t->rate, momentum = t->momentum, decay = t->decay, strength = t->strength;
    if (t->clip > 0) {
        vec sum = {0};
        for (long i = 0; i < size; i += LANES) {
            const vec each = *(const loose *)(g + i);
            sum += each * each;
        }
        REAL square = 0;
        for (int i = 0; i < LANES; i++) square += sum[i];
        const double scale = t->clip / (sqrt((double)square) + 1e-6);
        const REAL by = scale > 1 ? 1 : scale;
        for (long i = 0; i < size; i++) g[i] *= by;
    }
    if (shift)
        for (long i = 0; i < size; i++) g[i] += shift[i];
    if (anchor)
        for (long i = 0; i < size; i++) g[i] += strength * (w[i] - anchor[i]);
    if (t->adam) {
        const REAL b1 = t->beta1, b2 = t->beta2, rest1 = 1 - t->beta1, rest2 = 1 - t->beta2;
        const REAL smaller = 1 - t->rate * t->decay, by = t->rate / (1 - pow(t->beta1, taken));
        const REAL corrected = 1 - pow(t->beta2, taken), least = 1e-8;
        for (long i = 0; i < size; i++) {
            first[i] = b1 * first[i] + rest1 * g[i];
            second[i] = b2 * second[i] + rest2 * g[i] * g[i];
            w[i] = w[i] * smaller - by * first[i] / (SQRT(second[i] / corrected) + least);
        }
        return;
    }
    if (decay > 0)
        for (long i = 0; i < size; i++) g[i] += decay * w[i];
    if (momentum > 0)
        for (long i = 0; i < size; i++) g[i] = first[i] = momentum * first[i] + g[i];
    for (long i = 0; i < size; i++) w[i] -= rate * g[i];
}

/* All steps of one hospital. */
static void train(struct layer *l, long layers, const struct training *t, struct job *job, const struct room *room) {
    REAL *weight = room->weight, *scores = room->scores, *anchor = NULL, *shift = NULL;
    const long size = room->size;
    memset(room->first, 0, size * sizeof(REAL));
    memset(room->second, 0, size * sizeof(REAL));
    /* The zeros between the weights too: a hospital before, whose weights became no numbers, may have spoilt them. */
    memset(weight, 0, size * sizeof(REAL));
    put_all(l, layers, weight, weight, job->weights);
    if (job->anchor && t->strength > 0) put_all(l, layers, weight, anchor = room->anchor, job->anchor);
    if (job->shift) put_all(l, layers, weight, shift = room->shift, job->shift);
    const long n = job->patients, passes = (n + t->batch - 1) / t->batch, wide = l[layers - 1].wide;
    const int64_t *who = job->order, *last = who + (job->steps + passes - 1) / passes * n;
    double loss = 0;
    for (long s = 0; s < job->steps; s++) {
        /* A pass's last mini-batch holds what is left of it, and the next pass follows. */
        const long start = s % passes * t->batch, count = n - start < t->batch ? n - start : t->batch;
        /* Patients come in any order, so the rows of the next step are called for while this one is worked on. */
        for (const int64_t *next = who + count; next < last && next < who + count + t->batch; next++)
            for (long c = 0; c < job->columns; c += 64 / sizeof(REAL)) __builtin_prefetch(job->x + *next * job->columns + c);
        const long rows = whole(count, ROWS);
        for (long r = 0; r < rows; r++) {
            REAL *row = l[0].came + r * l[0].stride;
            if (r < count) memcpy(row, job->x + who[r] * job->columns, l[0].in * sizeof(REAL));
            else memset(row, 0, l[0].in * sizeof(REAL)); /* nobody: without a slope below */
        }
        forward(l, layers, rows, scores);
        REAL *slope = l[layers - 1].slope;
        const REAL share = (REAL)1 / count;
        double each = 0;
        for (long r = 0; r < rows; r++) {
            if (r >= count) {
                slope[r * wide] = 0;
                continue;
            }
            const REAL score = scores[r * wide], y = job->y[who[r]], small = EXP(-FABS(score));
            each += (score < 0 ? 0 : score) + LOG1P(small) - score * y;
            slope[r * wide] = ((score < 0 ? small : 1) / (1 + small) - y) * share;
        }
        loss += each / count;
        who += count;
        backward(l, layers, rows);
        step(t, size, s + 1, weight, room->gradient, room->first, room->second, anchor, shift);
    }
    for (long i = 0, at = 0; i < layers; i++) at += get(l + i, l[i].weight, job->weights + at);
    job->loss = job->steps ? loss / job->steps : 0;
}

/* Lay everything out in `space`; how many numbers it takes. Without a space it is counted alone. */
static long lay_out(const struct network *net, long rows, struct layer *l, struct room *room, REAL *space) {
    const long layers = net->layers;
    room->size = 0;
    for (long n = 0; n < layers; n++) {
        l[n].in = net->width[n], l[n].out = net->width[n + 1], l[n].depth = l[n].in + net->biased[n];
        l[n].wide = whole(l[n].out, LANES), l[n].stride = whole(l[n].depth, LANES);
        room->size += whole(l[n].depth, ROWS) * l[n].wide;
    }
    long at = 0, own = 0;
    REAL **shared[] = {&room->weight, &room->gradient, &room->first, &room->second, &room->anchor, &room->shift};
    for (unsigned i = 0; i < sizeof shared / sizeof *shared; i++, at += room->size)
        if (space) *shared[i] = space + at;
    for (long n = 0; n < layers; n++) {
        if (space) l[n].weight = room->weight + own, l[n].gradient = room->gradient + own;
        own += whole(l[n].depth, ROWS) * l[n].wide;
        REAL **parts[] = {&l[n].turned, &l[n].came, &l[n].slope};
        const long sizes[] = {l[n].out * whole(l[n].in, LANES), rows * l[n].stride, rows * l[n].wide};
        for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; at += sizes[i++])
            if (space) *parts[i] = space + at;
    }
    if (space) room->scores = space + at;
    return at + rows * l[layers - 1].wide;
}

/* Train every hospital, in layers laid out in zeros. */
static void train_all(struct layer *l, const struct network *net, const struct training *training, struct job *jobs,
                      int64_t count, long rows, const struct room *room) {
    if (net->biased[0])
        for (long r = 0; r < rows; r++) l[0].came[r * l[0].stride + l[0].in] = 1;
    for (int64_t j = 0; j < count; j++) train(l, net->layers, training, jobs + j, room);
}

/* Train every hospital; 0, or 1 where there is no memory for the working space. */
int fit(const struct network *net, const struct training *training, struct job *jobs, int64_t count) {
    struct layer l[MOST_LAYERS];
    struct room room;
    const long rows = whole(training->batch, ROWS), bytes = lay_out(net, rows, l, &room, NULL) * sizeof(REAL);
    void *space = NULL;
    if (posix_memalign(&space, 64, bytes)) return 1;
    memset(space, 0, bytes);
    lay_out(net, rows, l, &room, space);
    train_all(l, net, training, jobs, count, rows, &room);
    free(space);
    return 0;
}
