"""Language models: context encoders, decoders, and the splat language model built of them."""
