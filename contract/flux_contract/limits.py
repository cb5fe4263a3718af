"""Bounds and defaults, each with its unit and its reason."""

from __future__ import annotations

#: Pictures that one request may carry.
MAX_PICTURES = 8
#: Bytes of one encoded picture.
MAX_PICTURE_BYTES = 32 * 2**20
#: Pixels of one request's pictures together, read from their headers before decoding (8192 x 8192; 200 MB as RGB).
MAX_PICTURE_PIXELS = 8192 * 8192
#: Scans of one JPEG, the most that libjpeg's own tools write; usual progressive files have 10. A scan of 100 bytes can
#: take as long as decoding the whole picture.
MAX_JPEG_SCANS = 100
#: CPU seconds that decoding one request's pictures may take, where the model's DECODE_SECONDS says nothing else.
DEFAULT_DECODE_SECONDS = 10
#: Requests that one model instance holds at most, waiting or in work, where its MAX_PENDING says nothing else.
DEFAULT_PENDING = 64
#: Bytes of the inputs of those requests together. One request may have half of what the others leave: 8 pictures of 32
#: MiB with their masks, as base64, in an empty queue.
MAX_PENDING_BYTES = 3 * 2**29
#: Unicode characters of a prompt; the text encoder itself reads 512 tokens.
MAX_PROMPT_CHARACTERS = 4096
#: Context tokens of one request: 512 of text and 729 of each of FLUX.1's views, ten of which fit, or more with less
#: detail.
MAX_CONTEXT_TOKENS = 8192
#: Pixels of one side of the picture asked for.
MIN_SIDE, MAX_SIDE = 16, 4096
#: Pixels beyond which a picture is encoded and decoded in tiles, which is not quite what diffusers gives.
TILED_BEYOND_PIXELS = 2048 * 2048
#: Pixels that a side is a multiple of: 8 for the VAE times 2 for packing. A checkpoint may ask for another multiple.
SIDE_MULTIPLE = 16
#: Denoising steps.
MAX_STEPS = 100
#: Distilled guidance scale, as FLUX.1-dev's `guidance_scale`.
MAX_GUIDANCE = 30.0
#: LoRA adapters that one request may add up, and how much of each, in both directions.
MAX_LORAS = 4
MAX_LORA_SCALE = 4.0
#: Bytes of an adapter's file. An adapter of rank 128 for FLUX.1 in float32 has about 1.4 GiB.
MAX_LORA_FILE_BYTES = 4 * 2**30
#: Weight of a ControlNet's say; diffusers' default is 1.
MAX_CONTROL_SCALE = 2.0
#: Of Canny's gradients, as OpenCV computes them from 8-bit greys.
MAX_CANNY_THRESHOLD = 2000.0
#: Images that one request may ask for.
MAX_IMAGES = 8
#: Streams at once; more are refused. Triton gives a model TRITON_THREADS threads for its calls and the answers it sends
#: together: with 40 streams and 32 threads no progress came before the first call had ended (tried on 2.51).
MAX_STREAMS = 24
#: What a client may name its stream: 22 characters of URL-safe base64 are 128 random bits.
STREAM_TOKEN_PATTERN = "[0-9A-Za-z_-]{22,64}"
#: Calls of ensembles that may be left behind in `flux_stream` by streams that have ended, beside those of the running
#: ones; each occupies one of TRITON_THREADS until it returns.
MAX_ABANDONED_CALLS = 32
#: Threads that Triton is told to give each Python model (`--backend-config=python,thread-pool-size=`): one for each
#: stream's call, one for each call left behind, and 8 that send answers.
TRITON_THREADS = MAX_STREAMS + MAX_ABANDONED_CALLS + 8
#: Bytes of an error message. gRPC sends it in its trailers, with three bytes for each that is not ASCII, and clients
#: take 8 KiB of trailers.
MAX_MESSAGE_BYTES = 2000
#: Weight of a picture's or a prompt's tokens; 1 is diffusers' picture, 0 leaves it out.
MAX_STRENGTH = 4.0
#: Redux tokens that become one, along each side of their grid; 9 makes 3 x 3 of FLUX.1's 27 x 27.
MAX_DETAIL = 9
#: Squares that a wide or tall picture is seen as; 8 are 5832 of FLUX.1's tokens.
MAX_TILES = 8
#: Squares that the pictures of one request are seen as together: so many pass the vision tower at once.
MAX_VIEWS = 16
#: Seeds are what a signed 64-bit integer holds; -1 asks for a random one.
RANDOM_SEED, MAX_SEED = -1, 2**63 - 1
#: Priorities: background, usual, interactive.
MIN_PRIORITY, MAX_PRIORITY = -1, 1

#: Pixels of a side of FLUX.1's own images. Each server takes its checkpoint's: `sample_size` of the VAE.
FLUX_SIDE = 1024
#: What the seed document's API assumes.
DEFAULT_STEPS = 50
#: The same of checkpoints made for few steps, as FLUX.1-schnell.
DEFAULT_FEW_STEPS = 4
DEFAULT_GUIDANCE = 2.5
DEFAULT_SEED = 42
DEFAULT_IMAGES = 1
DEFAULT_STRENGTH = 1.0
DEFAULT_IMG2IMG_STRENGTH = 0.7
DEFAULT_CANNY_LOW, DEFAULT_CANNY_HIGH = 100.0, 200.0
DEFAULT_FORMAT = "png"
DEFAULT_PRIORITY = 0
DEFAULT_PREVIEW_METHOD = "latent2rgb"

#: Formats that `image_encode` writes; each may carry BASE64_SUFFIX.
FORMATS = ("png", "jpeg", "webp")
#: Formats of input pictures.
PICTURE_FORMATS = ("PNG", "JPEG", "WebP", "GIF", "BMP", "TIFF")
BASE64_SUFFIX = ";base64"

#: How several pictures become one condition: all of their tokens, or diffusers' weighted sum of them.
BLENDS = ("concat", "sum")
#: How a picture that is no square is shown to the vision tower, which sees squares.
FITS = ("stretch", "cover", "contain", "tiles")
#: How a picture becomes one of another size, for the VAE.
SIZE_FITS = ("cover", "contain", "stretch")
#: What a control picture is.
CONTROL_KINDS = ("photo", "edges")
#: How Redux tokens are pooled: by their mean over a cell, or over a triangle of twice the width.
DETAIL_FILTERS = ("area", "triangle")
#: What a pooled token weighs: as much as one, or as all that it is made of.
DETAIL_WEIGHTS = ("one", "all")

#: How previews are made: a linear map from latents to colours, or the VAE's decoder.
PREVIEW_METHODS = ("latent2rgb", "vae")
#: Those that take as long as a denoising step or longer.
SLOW_PREVIEW_METHODS = ("vae",)

#: Zero text tokens that FLUX Redux reads where there is no prompt; one token of this weight equals them.
EMPTY_PROMPT_TOKENS = 512
