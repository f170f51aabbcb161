/* output.h - what training leaves: an adapter as PEFT reads it, a whole model as transformers and vLLM read it.
 *
 * Files go straight into a folder that is not anybody's yet (io/folder.h renames it). config.json is the base's with
 * the names that transformers 4 and 5 and vLLM understand ("torch_dtype", "rope_theta", "rope_scaling"); tokenizer,
 * chat template and generation_config.json are copied byte for byte. */
#ifndef LATENT_TRAIN_OUTPUT_H
#define LATENT_TRAIN_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "model/model.h"
#include "model/train.h"

struct err;

/* adapter_config.json and adapter_model.safetensors; base: the name that PEFT finds the base model by. */
int output_adapter(const char *dir, struct trainable *t, const struct lora_options *lora, const struct model_config *c,
                   const char *base, struct err *e);

enum output_dtype { OUTPUT_BASE, OUTPUT_F32, OUTPUT_BF16 }; /* BASE: every tensor as the base has it (else F32) */

bool output_has_bf16(struct model *m, enum output_dtype dtype); /* of the tensors that output_model would write */

/* The weights as they stand (with LoRA: merged in F32, rounded once) and config.json of base_dir. */
int output_model(const char *dir, struct trainable *t, struct model *m, const char *base_dir, enum output_dtype dtype,
                 struct err *e);

/* Tokenizer, chat template, generation config, whatever of them is in `from`. */
int output_tokenizer(const char *dir, const char *from, struct err *e);

/* ---- does the folder compute what was trained? ---- */
struct drift {
    int tokens;
    double most, mean; /* absolute differences of logits */
    double scale;      /* largest absolute logit */
};

/* Opens the model that was written in dir and compares its logits with `logits` [n, width], those of the first n rows
 * of the batch before. */
int output_drift(const char *dir, struct device *d, const struct train_batch *b, int n, int width, const float *logits,
                 struct drift *out, struct err *e);

#endif
