// The page of the API's docs: Swagger UI over our schema. Calls that are tried there carry the CSRF token.
const { openapiUrl, csrfToken } = document.body.dataset;

window.SwaggerUIBundle({
  url: openapiUrl,
  dom_id: "#api-docs",
  deepLinking: true,
  layout: "BaseLayout",
  presets: [window.SwaggerUIBundle.presets.apis],
  validatorUrl: null,
  requestInterceptor: (request) => {
    request.headers["X-CSRFToken"] = csrfToken;
    return request;
  },
});
