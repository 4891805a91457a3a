"""The prompts that JoyCaption was trained to follow, in the form without a length."""

JOYCAPTION_SOURCE = (
    "JoyCaption Beta One, gradio-app/app.py of github.com/fpgaminer/joycaption (Apache-2.0)"
)

JOYCAPTION: dict[str, tuple[str, str]] = {
    "joycaption-descriptive": (
        "Write a detailed description for this image.",
        "formal, detailed prose",
    ),
    "joycaption-casual": (
        "Write a descriptive caption for this image in a casual tone.",
        "detailed prose in a friendlier tone",
    ),
    "joycaption-straightforward": (
        "Write a straightforward caption for this image. Begin with the main subject and medium. "
        "Mention pivotal elements\u2014people, objects, scenery\u2014using confident, definite "
        "language. Focus on concrete details like color, shape, texture, and spatial "
        "relationships. Show how elements interact. Omit mood and speculative wording. If text is "
        "present, quote it exactly. Note any watermarks, signatures, or compression artifacts. "
        "Never mention what's absent, resolution, or unobservable details. Vary your sentence "
        "structure and keep the description concise, without starting with \u201cThis image "
        "is\u2026\u201d or similar phrasing.",
        "objective and succinct prose",
    ),
    "joycaption-stable-diffusion": (
        "Output a stable diffusion prompt that is indistinguishable from a real stable diffusion "
        "prompt.",
        "a prompt that could have made the image",
    ),
    "joycaption-midjourney": (
        "Write a MidJourney prompt for this image.",
        "a prompt that could have made the image, in MidJourney's style",
    ),
    "joycaption-danbooru": (
        "Generate only comma-separated Danbooru tags (lowercase_underscores). Strict order: "
        "`artist:`, `copyright:`, `character:`, `meta:`, then general tags. Include counts "
        "(1girl), appearance, clothing, accessories, pose, expression, actions, background. Use "
        "precise Danbooru syntax. No extra text.",
        "tags as Danbooru has them",
    ),
    "joycaption-booru-like": (
        "Write a list of Booru-like tags for this image.",
        "tags without the rules of one site",
    ),
    "joycaption-art-critic": (
        "Analyze this image like an art critic would with information about its composition, "
        "style, symbolism, the use of color, light, any artistic movement it might belong to, etc.",
        "a paragraph about composition, style and symbolism",
    ),
    "joycaption-product-listing": (
        "Write a caption for this image as though it were a product listing.",
        "short marketing copy",
    ),
    "joycaption-social-media": (
        "Write a caption for this image as if it were being used for a social media post.",
        "a catchy caption for a post",
    ),
}
"""Name -> (text, use)."""
