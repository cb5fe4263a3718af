"""Bounds and defaults, each with its unit and its reason."""

from __future__ import annotations

#: Input images of one request.
MAX_INPUT_IMAGES = 8
#: Bytes of one encoded image.
MAX_IMAGE_BYTES = 32 * 2**20
#: Pixels of all images of one request, checked in their headers before decoding (8192 x 8192; 200 MB as RGB).
MAX_IMAGE_PIXELS = 8192 * 8192
#: Scans of one JPEG: the maximum of libjpeg's own tools. Usual progressive files have 10. Decoding a scan of 100 bytes
#: can take as long as decoding the whole image.
MAX_JPEG_SCANS = 100
#: CPU seconds for decoding the images of one request. The default of a model's DECODE_SECONDS.
DEFAULT_DECODE_SECONDS = 10
#: Requests that wait or run in one instance of a model. The default of its MAX_PENDING.
DEFAULT_PENDING = 64
#: Bytes of the inputs of all these requests. One request may have half of the free bytes: with an empty queue, 8 images
#: of 32 MiB with their masks, as base64.
MAX_PENDING_BYTES = 3 * 2**29
#: Unicode characters of a prompt. The text encoder reads 512 tokens.
MAX_PROMPT_CHARACTERS = 4096
#: Context tokens of one request. With FLUX.1: 512 of text and 729 of each view, so ten views, or more with less detail.
MAX_CONTEXT_TOKENS = 8192
#: Pixels of a side of the generated image.
MIN_SIDE, MAX_SIDE = 16, 4096
#: Above this number of pixels, the VAE encodes and decodes in tiles. The result is close but not equal to diffusers'.
TILED_BEYOND_PIXELS = 2048 * 2048
#: A side is a multiple of this many pixels: 8 for the VAE times 2 for packing. A checkpoint can require another one.
SIDE_MULTIPLE = 16
#: Denoising steps.
MAX_STEPS = 100
#: Distilled guidance scale, the same as FLUX.1-dev's `guidance_scale`.
MAX_GUIDANCE = 30.0
#: LoRA adapters of one request, and the largest absolute scale.
MAX_LORAS = 4
MAX_LORA_SCALE = 4.0
#: Bytes of an adapter's file. An adapter of rank 128 for FLUX.1 in float32 has about 1.4 GiB.
MAX_LORA_FILE_BYTES = 4 * 2**30
#: Scale of a ControlNet. The default of diffusers is 1.
MAX_CONTROL_SCALE = 2.0
#: Threshold of the gradient in OpenCV's Canny, for 8-bit grey values.
MAX_CANNY_THRESHOLD = 2000.0
#: Generated images of one request.
MAX_IMAGES = 8
#: Concurrent streams. Further ones are rejected. A model's calls and responses share TRITON_THREADS threads: with 40
#: streams and 32 threads, Triton sent no progress before the first call ended (tested on 2.51).
MAX_STREAMS = 24
#: Name of a stream. 22 characters of URL-safe base64 are 128 random bits.
STREAM_TOKEN_PATTERN = "[0-9A-Za-z_-]{22,64}"
#: Calls of ensembles in `flux_stream` whose stream has ended, beside those of running streams. Each occupies one of
#: TRITON_THREADS until it returns.
MAX_ABANDONED_CALLS = 32
#: Threads of each Python model (`--backend-config=python,thread-pool-size=`): one for the call of each stream, one for
#: each abandoned call, and 8 that send responses.
TRITON_THREADS = MAX_STREAMS + MAX_ABANDONED_CALLS + 8
#: Bytes of an error message. gRPC sends it in trailers, with three bytes for each byte that is not ASCII, and clients
#: accept 8 KiB of trailers.
MAX_MESSAGE_BYTES = 2000
#: Weight of the tokens of an image or a prompt. 1 is the same as diffusers, 0 leaves it out.
MAX_STRENGTH = 4.0
#: Redux tokens that are pooled into one along each side of their grid. 9 makes 3 x 3 of FLUX.1's 27 x 27.
MAX_DETAIL = 9
#: Square tiles of a wide or tall image. 8 tiles are 5832 tokens of FLUX.1.
MAX_TILES = 8
#: Views of all images of one request, which the vision encoder processes in one batch.
MAX_VIEWS = 16
#: Seeds are signed 64-bit integers. -1 picks a random seed.
RANDOM_SEED, MAX_SEED = -1, 2**63 - 1
#: Priorities: background, normal, interactive.
MIN_PRIORITY, MAX_PRIORITY = -1, 1

#: Default side of FLUX.1's images in pixels. A server uses `sample_size` of its checkpoint's VAE instead.
FLUX_SIDE = 1024
#: Denoising steps of a request without NUM_INFERENCE_STEPS, the same as in GenServe's API.
DEFAULT_STEPS = 50
#: The same for checkpoints that are distilled for few steps, such as FLUX.1-schnell.
DEFAULT_FEW_STEPS = 4
DEFAULT_GUIDANCE = 2.5
DEFAULT_SEED = 42
DEFAULT_IMAGES = 1
DEFAULT_STRENGTH = 1.0
DEFAULT_IMG2IMG_STRENGTH = 0.7
#: Denoising strength of inpainting in the REST APIs, where the masked part is replaced.
DEFAULT_INPAINT_STRENGTH = 1.0
DEFAULT_CANNY_LOW, DEFAULT_CANNY_HIGH = 100.0, 200.0
DEFAULT_FORMAT = "png"
DEFAULT_PRIORITY = 0
DEFAULT_PREVIEW_METHOD = "latent2rgb"

#: Formats of generated images. A request can append BASE64_SUFFIX.
FORMATS = ("png", "jpeg", "webp")
#: Formats of input images.
INPUT_FORMATS = ("PNG", "JPEG", "WebP", "GIF", "BMP", "TIFF")
BASE64_SUFFIX = ";base64"

#: How several images are combined: all of their tokens, or diffusers' weighted sum.
BLENDS = ("concat", "sum")
#: How an image that is not square is given to the vision encoder, whose input is square.
FITS = ("stretch", "cover", "contain", "tiles")
#: How an image is resized for the VAE.
SIZE_FITS = ("cover", "contain", "stretch")
#: Kinds of control images.
CONTROL_KINDS = ("photo", "edges")
#: Channels of a mask image that can say what is changed.
MASK_CHANNELS = ("luminance", "alpha")
#: Pixels of the transition inside the edge of a mask.
MAX_MASK_FEATHER = 256
#: Filters for pooling Redux tokens: the mean over a cell, or a triangle of twice the width.
DETAIL_FILTERS = ("area", "triangle")
#: Weight of a pooled token: that of one token, or the number of its tokens.
DETAIL_WEIGHTS = ("one", "all")

#: How previews are computed: by a linear map from latents to colours, or by the VAE decoder.
PREVIEW_METHODS = ("latent2rgb", "vae")
#: Methods that take as long as a denoising step or longer.
SLOW_PREVIEW_METHODS = ("vae",)

#: Zero text tokens of FLUX Redux without a prompt. One token of this weight equals them.
EMPTY_PROMPT_TOKENS = 512
